package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// request is what a client sends; it doesn't look at the answer's body.
type request struct{ method, path, body, accept string }

func (s *server) send(ctx context.Context, r request) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, r.method, s.url+r.path, strings.NewReader(r.body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", r.accept)
	req.Header.Set("Accept-Encoding", "identity") // as components that are near their server
	if r.body != "" {
		req.Header.Set("Content-Type", runtime.ContentTypeJSON)
	}
	if r.method == http.MethodPatch {
		req.Header.Set("Content-Type", "application/merge-patch+json")
	}
	answer, err := s.client.Do(req)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode >= 300 {
		defer answer.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(answer.Body, 1000))
		return nil, fmt.Errorf("%s %s: %d %s", r.method, r.path, answer.StatusCode, text)
	}
	return answer, nil
}

func (s *server) do(ctx context.Context, r request) error {
	answer, err := s.send(ctx, r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	_, err = io.Copy(io.Discard, answer.Body)
	return err
}

// firstByte is the time from a request to the first byte of the answer's body.
func (s *server) firstByte(ctx context.Context, r request) (time.Duration, error) {
	began := time.Now()
	answer, err := s.send(ctx, r)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	if _, err := io.ReadFull(answer.Body, make([]byte, 1)); err != nil {
		return 0, err
	}
	took := time.Since(began)
	_, err = io.Copy(io.Discard, answer.Body)
	return took, err
}

// revision is the newest of a collection.
func (s *server) revision(ctx context.Context, collection string) (string, error) {
	answer, err := s.send(ctx, request{"GET", collection + "?limit=1", "", runtime.ContentTypeJSON})
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	var list metav1.PartialObjectMetadataList
	err = json.NewDecoder(answer.Body).Decode(&list)
	return list.ResourceVersion, err
}

// measure sends n requests, some at a time.
func (s *server) measure(ctx context.Context, n int, make func(i int) request) (sample, error) {
	before, err := s.processor()
	if err != nil {
		return sample{}, err
	}
	var next atomic.Int64
	var mu sync.Mutex
	got := sample{operations: n}
	group, ctx := errgroup.WithContext(ctx)
	for range workers {
		group.Go(func() error {
			var own []time.Duration
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				began := time.Now()
				if err := s.do(ctx, make(i)); err != nil {
					return err
				}
				own = append(own, time.Since(began))
			}
			mu.Lock()
			defer mu.Unlock()
			got.latencies = append(got.latencies, own...)
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return sample{}, err
	}
	after, err := s.processor()
	got.processor = after - before
	return got, err
}

// watch lets many watch one collection, changes an object of it again and again, and waits until all have
// seen all of it. The writes are in the cost, a thousandth of it each.
func (s *server) watch(ctx context.Context) (sample, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	alone, err := s.resident()
	if err != nil {
		return sample{}, err
	}
	revision, err := s.revision(ctx, collectionOf(few))
	if err != nil {
		return sample{}, err
	}
	var sent [updates]atomic.Int64 // when; nanoseconds since began
	began := time.Now()
	latencies := make([][]time.Duration, watchers)
	var ready sync.WaitGroup
	group, ctx := errgroup.WithContext(ctx)
	for i := range watchers {
		ready.Add(1)
		group.Go(func() error {
			answer, err := s.send(ctx, request{"GET", collectionOf(few) + "?watch=1&resourceVersion=" + revision, "", runtime.ContentTypeJSON})
			ready.Done()
			if err != nil {
				return err
			}
			defer answer.Body.Close()
			buffer := make([]byte, 32<<10)
			for count := 0; count < updates; {
				n, err := answer.Body.Read(buffer)
				now := time.Since(began)
				for range bytes.Count(buffer[:n], []byte("\n")) {
					if count < updates {
						latencies[i] = append(latencies[i], now-time.Duration(sent[count].Load()))
					}
					count++
				}
				if err != nil {
					return fmt.Errorf("a watch ended after %d events: %w", count, err)
				}
			}
			return nil
		})
	}
	ready.Wait()
	together, err := s.resident()
	if err != nil {
		return sample{}, err
	}
	s.watcher = (together - alone) / watchers
	before, err := s.processor()
	if err != nil {
		return sample{}, err
	}
	for i := range updates {
		sent[i].Store(int64(time.Since(began)))
		if err := s.do(ctx, request{"PUT", object(few, 0), configMap(objectName(0), string(rune('a'+i%26))), runtime.ContentTypeJSON}); err != nil {
			return sample{}, err
		}
	}
	if err := group.Wait(); err != nil {
		return sample{}, err
	}
	after, err := s.processor()
	return sample{operations: watchers * updates, processor: after - before, latencies: slices.Concat(latencies...)}, err
}

// percentile returns a percentile of durations, rounded.
func percentile(all []time.Duration, percent int) time.Duration {
	slices.Sort(all)
	return all[(len(all)-1)*percent/100].Round(10 * time.Microsecond)
}
