package encryption

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff/pkg/api"
	"skiff/pkg/store"
)

// contextless is for the ciphers, which ask nobody and take no time.
var contextless = context.Background()

// Provider encrypts by a file. It may be used concurrently.
type Provider struct {
	file    string
	data    []byte // of the file, as last read
	current atomic.Pointer[configuration]
}

// Open reads a file.
func Open(file string) (*Provider, error) {
	p := &Provider{file: file}
	if _, err := p.Reload(); err != nil {
		return nil, err
	}
	return p, nil
}

// Reload reads the file again, and says whether that has changed anything. After an error all stays as it was.
// It is for one caller at a time.
func (p *Provider) Reload() (bool, error) {
	data, err := os.ReadFile(p.file)
	if err != nil {
		return false, fmt.Errorf("encryption configuration: %w", err)
	}
	if p.data != nil && bytes.Equal(data, p.data) {
		return false, nil
	}
	c, err := parse(data)
	if err != nil {
		return false, fmt.Errorf("encryption configuration %s: %w", p.file, err)
	}
	p.data = data
	p.current.Store(c)
	return true, nil
}

// reloadEvery is how often the file is looked at. Others of a cluster get it at other times anyway, so that new keys
// have to be everywhere for reading before one may write.
const reloadEvery = 2 * time.Second

// Follow reloads the file when it changes, until ctx ends, and calls changed after that.
func (p *Provider) Follow(ctx context.Context, changed func()) error {
	ticker := time.NewTicker(reloadEvery)
	defer ticker.Stop()
	said := ""
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
		switch news, err := p.Reload(); {
		case err != nil && err.Error() != said:
			said = err.Error()
			slog.Error("going on with the encryption configuration as it was", "error", err)
		case news:
			said = ""
			slog.Info("the encryption configuration was reloaded", "file", p.file)
			changed()
		}
	}
}

// Transformer is what encrypts the objects of a kind.
func (p *Provider) Transformer(kind *api.Kind) store.Transformer {
	return &transformer{p, kind.GroupResource()}
}

type transformer struct {
	provider *Provider
	resource schema.GroupResource
}

func (t *transformer) rule() *rule { return t.provider.current.Load().ruleFor(t.resource) }

// FromStorage implements [store.Transformer].
func (t *transformer) FromStorage(data, context []byte) (plain []byte, with string, err error) {
	return t.rule().open(data, context)
}

// ToStorage implements [store.Transformer].
func (t *transformer) ToStorage(plain, context []byte) (data []byte, with string, err error) {
	return t.rule().seal(plain, context)
}

// Stale implements [store.Transformer].
func (t *transformer) Stale(with string) bool { return with != t.rule().keys[0].id }
