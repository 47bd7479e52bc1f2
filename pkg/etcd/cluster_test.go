package etcd

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// authority makes a CA and one certificate for loopback that serves everybody, as files.
func authority(t *testing.T) (Files, *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "etcd"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	files := Files{Cert: write("crt", "CERTIFICATE", der), Key: write("key", "PRIVATE KEY", keyDER)}
	files.CA = files.Cert
	pair, err := tls.LoadX509KeyPair(files.Cert, files.Key)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots.AddCert(certificate)
	return files, &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}}
}

// freeURL is an address that nobody listens on right now.
func freeURL(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return "https://" + l.Addr().String()
}

// One member grows to three, over mutual TLS, loses one, and goes on; the lost one is replaced.
func TestJoinAndLeave(t *testing.T) {
	files, config := authority(t)
	describe := func(name string) Config {
		return Config{Name: name, DataDir: t.TempDir(), NoSync: true, Log: slog.New(slog.DiscardHandler), Heartbeat: 20 * time.Millisecond, Election: 400 * time.Millisecond,
			Peers:   Endpoint{Listen: []string{freeURL(t)}, TLS: files},
			Clients: Endpoint{Listen: []string{freeURL(t)}, TLS: files}}
	}
	one := describe("one")
	endpoints := []string{one.Clients.Listen[0]}
	start(t, one)
	dial := func() *clientv3.Client {
		c, err := Dial(DialConfig{Endpoints: endpoints, TLS: config})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	put := func(c *clientv3.Client, value string) {
		t.Helper()
		for { // a change of membership or leader may refuse one or two
			_, err := c.Put(ctx, "k", value)
			if err == nil {
				return
			}
			if ctx.Err() != nil {
				t.Fatal(err)
			}
		}
	}
	client := dial()
	put(client, "1")
	join := func(name string) *Member {
		t.Helper()
		c := describe(name)
		joined, err := Join(ctx, client, c)
		if err != nil {
			t.Fatal(err)
		}
		again, err := Join(ctx, client, c) // a Join that is repeated adds nothing
		if err != nil || fmt.Sprint(again.InitialCluster) != fmt.Sprint(joined.InitialCluster) {
			t.Fatalf("joined again as %v: %v", again.InitialCluster, err)
		}
		endpoints = append(endpoints, c.Clients.Listen[0])
		return start(t, joined)
	}
	join("two")
	three := join("three")
	put(client, "2")
	answer, err := three.Client().Get(ctx, "k")
	if err != nil || string(answer.Kvs[0].Value) != "2" {
		t.Fatalf("the third member has %v, %v", answer, err)
	}
	id := three.ID()
	three.Close()
	client = dial()
	put(client, "3")
	if err := Leave(ctx, client, id); err != nil {
		t.Fatal(err)
	}
	put(client, "4")
	list, err := client.MemberList(ctx)
	if err != nil || len(list.Members) != 2 {
		t.Errorf("%v, %v; want two members", list, err)
	}

	stranger, err := Dial(DialConfig{Endpoints: endpoints[:1], TLS: &tls.Config{RootCAs: config.RootCAs}})
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	short, cancelShort := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancelShort()
	if _, err := stranger.Get(short, "k"); err == nil {
		t.Error("a client without a certificate was let in")
	}
}
