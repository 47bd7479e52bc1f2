package pki

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/client-go/tools/clientcmd"
)

// Renewed tells what a pass over a directory did.
type Renewed struct {
	Files []string // that were replaced
	// Next is when the first of the certificates is due; zero: there is none.
	Next time.Time
}

// Renew looks through a directory and all below it, and renews what this authority has signed and what is past
// two thirds of its life: pairs NAME.crt and NAME.key, and client certificates that are embedded
// in NAME.conf, a kubeconfig. Subject, names, usages and length of life stay, the key is new.
// A pair that doesn't match, as a crash between its two files leaves it, is renewed at once.
// Authorities are left alone. What can't be read or written is in the error; the rest is done all the same.
//
// Each file is replaced as a whole, the key before the certificate: a reader that looks
// for a new certificate always finds its key.
func Renew(dir string, authority *Authority, now time.Time) (Renewed, error) {
	r := &renewal{authority: authority, now: now}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		switch {
		case strings.HasPrefix(entry.Name(), "."): // one that is being written
		case strings.HasSuffix(path, ".crt"):
			err = r.pair(strings.TrimSuffix(path, ".crt"))
		case strings.HasSuffix(path, ".conf"):
			err = r.kubeconfig(path)
		}
		if err != nil {
			r.failed = append(r.failed, fmt.Errorf("renew %s: %w", path, err))
		}
		return nil
	})
	return r.done, errors.Join(append(r.failed, err)...)
}

type renewal struct {
	authority *Authority
	now       time.Time
	done      Renewed
	failed    []error
}

func (r *renewal) pair(name string) error {
	pair, err := Load(name)
	if os.IsNotExist(err) {
		return nil // a certificate without its key is somebody else's
	}
	if err != nil {
		return err
	}
	fresh, err := r.renewed(pair)
	if err != nil || fresh == nil {
		return err
	}
	if err := Replace(name+".key", fresh.Key, 0o600); err != nil {
		return err
	}
	if err := Replace(name+".crt", fresh.Cert, 0o644); err != nil {
		return err
	}
	r.done.Files = append(r.done.Files, name+".crt")
	return nil
}

func (r *renewal) kubeconfig(file string) error {
	data, err := os.ReadFile(file)
	if err != nil || !bytes.Contains(data, []byte("client-certificate-data")) {
		return err // other things are called .conf as well
	}
	config, err := clientcmd.Load(data)
	if err != nil {
		return err
	}
	changed := false
	for _, user := range config.AuthInfos {
		fresh, err := r.renewed(Pair{Cert: user.ClientCertificateData, Key: user.ClientKeyData})
		if err != nil {
			return err
		}
		if fresh != nil {
			user.ClientCertificateData, user.ClientKeyData, changed = fresh.Cert, fresh.Key, true
		}
	}
	if !changed {
		return nil
	}
	if data, err = clientcmd.Write(*config); err != nil {
		return err
	}
	r.done.Files = append(r.done.Files, file)
	return Replace(file, data, 0o600)
}

// renewed returns the pair that takes a pair's place; nil when it may stay.
func (r *renewal) renewed(pair Pair) (*Pair, error) {
	block, chain := pem.Decode(pair.Cert)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, nil
	}
	old, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, err
	}
	if old.IsCA || old.CheckSignatureFrom(r.authority.Certificate) != nil {
		return nil, nil
	}
	due := Due(old)
	if _, err := tls.X509KeyPair(pair.Cert, pair.Key); err != nil {
		due = r.now // torn
	}
	if r.now.Before(due) {
		r.next(due)
		return nil, nil
	}
	cert, key, err := r.authority.again(old, r.now)
	if err != nil {
		return nil, err
	}
	r.next(Due(cert))
	fresh, err := encode(cert.Raw, key)
	if err != nil {
		return nil, err
	}
	fresh.Cert = append(fresh.Cert, chain...)
	return &fresh, nil
}

func (r *renewal) next(due time.Time) {
	if r.done.Next.IsZero() || due.Before(r.done.Next) {
		r.done.Next = due
	}
}

// Due is when a certificate should be renewed: two thirds into its life, so that a third of it remains
// for whatever hinders.
func Due(c *x509.Certificate) time.Time {
	return c.NotAfter.Add(-c.NotAfter.Sub(c.NotBefore) / 3)
}

// again signs what a certificate says for as long as it said, with a new key.
func (a *Authority) again(old *x509.Certificate, now time.Time) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	life := old.NotAfter.Sub(old.NotBefore)
	template := &x509.Certificate{
		RawSubject: old.RawSubject, DNSNames: old.DNSNames, IPAddresses: old.IPAddresses, EmailAddresses: old.EmailAddresses, URIs: old.URIs,
		KeyUsage: old.KeyUsage, ExtKeyUsage: old.ExtKeyUsage, UnknownExtKeyUsage: old.UnknownExtKeyUsage, BasicConstraintsValid: old.BasicConstraintsValid,
		NotBefore: now.Add(-tolerance(life)),
	}
	template.NotAfter = template.NotBefore.Add(life)
	if end := a.Certificate.NotAfter; template.NotAfter.After(end) {
		template.NotAfter = end
	}
	if !template.NotAfter.After(now) {
		return nil, nil, fmt.Errorf("the authority %s has expired", a.Certificate.Subject)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	if template.SerialNumber, err = serial(); err != nil {
		return nil, nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.Certificate, key.Public(), a.key)
	if err != nil {
		return nil, nil, fmt.Errorf("sign %s: %w", old.Subject, err)
	}
	cert, err := x509.ParseCertificate(der)
	return cert, key, err
}

// A Renewer keeps the certificates in directories alive. Each machine with an authority's key runs one.
type Renewer struct {
	Dirs []string
	// Authorities are pairs of files, read at each pass.
	Authorities []AuthorityFiles
	Logger      *slog.Logger
}

// AuthorityFiles are where an authority lies.
type AuthorityFiles struct{ Cert, Key string }

// At least and at most this long lies between two passes: files may be added, and clocks be set.
const (
	shortestPause = time.Second
	longestPause  = time.Hour
)

// Run renews until ctx ends. What fails is logged and tried again.
func (r *Renewer) Run(ctx context.Context) error {
	for {
		wait := longestPause
		next, err := r.pass(time.Now())
		if err != nil {
			r.Logger.Error("certificates are not renewed", "error", err)
			wait = time.Minute
		}
		if !next.IsZero() {
			wait = min(wait, max(time.Until(next), shortestPause))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

func (r *Renewer) pass(now time.Time) (next time.Time, err error) {
	var errs []error
	for _, files := range r.Authorities {
		authority, err := files.load()
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, dir := range r.Dirs {
			done, err := Renew(dir, authority, now)
			errs = append(errs, err)
			for _, file := range done.Files {
				r.Logger.Info("renewed certificate", "file", file)
			}
			if !done.Next.IsZero() && (next.IsZero() || done.Next.Before(next)) {
				next = done.Next
			}
		}
	}
	return next, errors.Join(errs...)
}

func (f AuthorityFiles) load() (*Authority, error) {
	cert, err := os.ReadFile(f.Cert)
	if err != nil {
		return nil, err
	}
	key, err := os.ReadFile(f.Key)
	if err != nil {
		return nil, err
	}
	authority, err := ParseAuthority(Pair{Cert: cert, Key: key})
	if err != nil {
		return nil, fmt.Errorf("authority %s: %w", f.Cert, err)
	}
	return authority, nil
}
