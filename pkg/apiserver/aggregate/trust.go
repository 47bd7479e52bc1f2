package aggregate

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"slices"
	"time"

	"k8s.io/client-go/util/cert"
)

// Trust is what the server of an aggregated API has to know to recognize users: the authorities of clients, and of
// the proxies that are believed who makes a request, with the names of those and of the headers that they use.
type Trust struct {
	ClientCA, ProxyCA                                           []byte // PEM
	Names, UserHeaders, UIDHeaders, GroupHeaders, ExtraPrefixes []string
}

// Merge adds this server's part to the config map's data, to which other apiservers add theirs. Certificates that have expired are
// left out.
func (t Trust) Merge(data map[string]string, now time.Time) (map[string]string, error) {
	out := map[string]string{}
	certificates := func(key string, own []byte) error {
		merged, err := mergeCertificates([]byte(data[key]), own, now)
		if err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		if len(merged) > 0 {
			out[key] = string(merged)
		}
		return nil
	}
	if err := certificates("client-ca-file", t.ClientCA); err != nil {
		return nil, err
	}
	if err := certificates("requestheader-client-ca-file", t.ProxyCA); err != nil || out["requestheader-client-ca-file"] == "" {
		return out, err
	}
	for key, own := range map[string][]string{
		"requestheader-allowed-names": t.Names, "requestheader-username-headers": t.UserHeaders, "requestheader-uid-headers": t.UIDHeaders,
		"requestheader-group-headers": t.GroupHeaders, "requestheader-extra-headers-prefix": t.ExtraPrefixes,
	} {
		var values []string
		if data[key] != "" {
			if err := json.Unmarshal([]byte(data[key]), &values); err != nil {
				return nil, fmt.Errorf("%s: %w", key, err)
			}
		}
		for _, value := range own {
			if !slices.Contains(values, value) {
				values = append(values, value)
			}
		}
		if values == nil {
			if key == "requestheader-uid-headers" {
				continue // which older servers don't know
			}
			values = []string{}
		}
		text, err := json.Marshal(values)
		if err != nil {
			return nil, err
		}
		out[key] = string(text)
	}
	return out, nil
}

func mergeCertificates(have, own []byte, now time.Time) ([]byte, error) {
	var merged bytes.Buffer
	seen := map[string]bool{}
	for _, bundle := range [][]byte{have, own} {
		if len(bundle) == 0 {
			continue
		}
		all, err := cert.ParseCertsPEM(bundle)
		if err != nil {
			return nil, err
		}
		for _, c := range all {
			if seen[string(c.Raw)] || c.NotAfter.Before(now) {
				continue
			}
			seen[string(c.Raw)] = true
			if err := pem.Encode(&merged, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}); err != nil {
				return nil, err
			}
		}
	}
	return merged.Bytes(), nil
}
