package main

import (
	"context"
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
	flags.Parse(args)
	if flags.NArg() != 1 {
		fmt.Fprintf(os.Stderr, "hello %s: want one argument\n", part)
		return 2
	}
	ask := map[string]func(string) (string, error){
		"get":    func(url string) (string, error) { return answer(request(http.MethodGet, url)) },
		"post":   func(url string) (string, error) { return answer(request(http.MethodPost, url)) },
		"lookup": lookup,
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

func request(method, url string) (*http.Response, error) {
	r, err := http.NewRequest(method, url, nil)
	if err != nil {
		return nil, err
	}
	return once.Do(r)
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
