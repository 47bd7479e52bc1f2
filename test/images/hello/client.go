package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

// client plays one of the client's parts and returns the exit code: 1 if
// anything failed.
func client(part string, args []string) int {
	flags := flag.NewFlagSet(part, flag.ExitOnError)
	count := flags.Int("n", 1, "how many requests; 0 goes on for ever")
	every := flags.Duration("every", 0, "pause between two requests")
	token := flags.String("token", "", "a file with a bearer token to send")
	ca := flags.String("ca", "", "a file with the certificates to trust")
	flags.Parse(args)
	if flags.NArg() != 1 {
		fmt.Fprintf(os.Stderr, "hello %s: want one argument\n", part)
		return 2
	}
	if err := trust(*token, *ca); err != nil {
		fmt.Fprintf(os.Stderr, "hello %s: %v\n", part, err)
		return 2
	}
	ask := map[string]func(string) (string, error){
		"get":    func(url string) (string, error) { return answer(request(http.MethodGet, url)) },
		"post":   func(url string) (string, error) { return answer(request(http.MethodPost, url)) },
		"lookup": lookup,
		"udp":    datagram,
	}[part]
	code := 0
	for i := 0; *count == 0 || i < *count; i++ {
		if i > 0 {
			time.Sleep(*every)
		}
		text, err := ask(flags.Arg(0))
		if err != nil {
			fmt.Printf("FAILED at %s: %v\n", time.Now().Format(time.StampMilli), err)
			code = 1
			continue
		}
		fmt.Println(strings.TrimSpace(text))
	}
	return code
}

// Each request has a connection of its own, so that each is balanced anew.
var once = http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

// bearer is the token to send, if any.
var bearer string

func trust(token, ca string) error {
	if token != "" {
		data, err := os.ReadFile(token)
		if err != nil {
			return err
		}
		bearer = string(data)
	}
	if ca == "" {
		return nil
	}
	data, err := os.ReadFile(ca)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(data) {
		return fmt.Errorf("%s holds no certificate", ca)
	}
	once.Transport.(*http.Transport).TLSClientConfig = &tls.Config{RootCAs: roots}
	return nil
}

func request(method, url string) (*http.Response, error) {
	r, err := http.NewRequest(method, url, nil)
	if err != nil {
		return nil, err
	}
	if bearer != "" {
		r.Header.Set("Authorization", "Bearer "+bearer)
	}
	return once.Do(r)
}

// datagram asks over UDP, each time from a port of its own.
func datagram(address string) (string, error) {
	c, err := net.Dial("udp", address)
	if err != nil {
		return "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(2 * time.Second))
	if _, err := c.Write([]byte("who are you?")); err != nil {
		return "", err
	}
	buffer := make([]byte, 1500)
	n, err := c.Read(buffer)
	return string(buffer[:n]), err
}

func answer(r *http.Response, err error) (string, error) {
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err == nil && r.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", r.Status, body)
	}
	return string(body), err
}

func lookup(name string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	addresses, err := net.DefaultResolver.LookupHost(ctx, name)
	return strings.Join(addresses, " "), err
}
