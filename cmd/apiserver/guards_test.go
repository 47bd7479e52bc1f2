package main

import (
	"os"
	"strings"
	"testing"
)

// What can't be done is refused before anything is started, and says which flag or file.
func TestRefusedFlags(t *testing.T) {
	s := newSite(t)
	kms := s.file("kms.yaml")
	if err := os.WriteFile(kms, []byte("apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources: [{resources: [secrets], providers: [{kms: {name: a, endpoint: unix:///a}}]}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for flags, says := range map[string]string{
		"--oidc-client-id=a":                             "--oidc-issuer-url and --oidc-client-id must be specified together",
		"--oidc-issuer-url=http://a --oidc-client-id=a":  "must be an https URL",
		"--oidc-issuer-url=https://i --oidc-client-id=a": "issuer https://i is that of service account tokens",
		"--audit-log-path=-":                             "a policy and a path",
		"--encryption-provider-config=" + kms:            "kms.yaml: resources[0].providers[0]: key management services (kms) are not supported",
		"--encryption-provider-config-automatic-reload":  "needs --encryption-provider-config",
		"--max-requests-inflight=-1":                     "must not be negative",
	} {
		root := command()
		root.SetArgs(append([]string{"--advertise-address=127.0.0.1", "--etcd-servers=http://127.0.0.1:1", "--tls-cert-file=" + s.file("server.crt"), "--tls-private-key-file=" + s.file("server.key"),
			"--service-account-issuer=https://i", "--service-account-signing-key-file=" + s.file("sa.key")}, strings.Fields(flags)...))
		root.SilenceErrors, root.SilenceUsage = true, true
		if err := root.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", flags, err)
		}
	}
}
