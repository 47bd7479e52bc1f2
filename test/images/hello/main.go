// Command hello is the program of the example and test image: a small HTTP
// server that says who it is, and misbehaves on request.
//
//	GET /          "hello from POD"
//	GET /healthz   200, or 503 after a POST /fail
//	GET /env?NAME  the value of an environment variable
//	GET /file?PATH the content of a file
//	GET /slow?1s   answers after a while
//	POST /fail     turns the health check red
//	POST /exit?N   ends the process with code N
//
// The same port answers any UDP datagram with what GET / says.
//
// On SIGTERM it finishes what it is answering and ends with code 0.
//
// It is also the client of the tests (Debian's static busybox can't look up
// names in an image without a C library):
//
//	hello get [-n COUNT] [-every DURATION] [-token FILE] [-ca FILE] URL
//	                                             prints each answer, or "FAILED: why"
//	hello post URL                               posts nothing, once
//	hello lookup NAME                            prints the addresses, or why there are none
//	hello udp ADDRESS:PORT                       sends a datagram and prints the answer
package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"
)

func main() {
	address := ":8080"
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "get", "post", "lookup", "udp":
			os.Exit(client(os.Args[1], os.Args[2:]))
		}
		address = os.Args[1]
	}
	host, _ := os.Hostname()
	var broken atomic.Bool
	query := func(r *http.Request) string { return r.URL.RawQuery }
	http.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "hello from %s\n", host) })
	http.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		if broken.Load() {
			http.Error(w, "broken on request", http.StatusServiceUnavailable)
		}
	})
	http.HandleFunc("GET /env", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, os.Getenv(query(r))) })
	http.HandleFunc("GET /file", func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, query(r)) })
	http.HandleFunc("GET /slow", func(w http.ResponseWriter, r *http.Request) {
		d, err := time.ParseDuration(query(r))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		time.Sleep(d)
		fmt.Fprintf(w, "slow hello from %s\n", host)
	})
	http.HandleFunc("POST /fail", func(http.ResponseWriter, *http.Request) { broken.Store(true) })
	http.HandleFunc("POST /exit", func(_ http.ResponseWriter, r *http.Request) {
		code, _ := strconv.Atoi(query(r))
		os.Exit(code)
	})

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	server := &http.Server{Addr: address}
	done := make(chan struct{})
	context.AfterFunc(ctx, func() {
		defer close(done)
		server.Shutdown(context.Background())
	})
	go datagrams(address, "hello from "+host+"\n")
	fmt.Printf("%s listens on %s\n", host, address)
	if err := server.ListenAndServe(); err != http.ErrServerClosed {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	<-done
	fmt.Println("bye")
}

// datagrams answers each of them alike, if the address can be had for UDP.
func datagrams(address, answer string) {
	c, err := net.ListenPacket("udp", address)
	if err != nil {
		return
	}
	buffer := make([]byte, 1500)
	for {
		_, from, err := c.ReadFrom(buffer)
		if err != nil {
			return
		}
		c.WriteTo([]byte(answer), from)
	}
}
