package main

import (
	"errors"
	"strings"

	"github.com/spf13/pflag"

	"skiff/pkg/apiserver/audit"
	"skiff/pkg/apiserver/authn"
	"skiff/pkg/store/encryption"
)

// auditFlags are kube-apiserver's, as far as they write to a file.
func auditFlags(f *pflag.FlagSet, o *audit.Options) {
	f.StringVar(&o.PolicyFile, "audit-policy-file", "", "file with the Policy (audit.k8s.io/v1) that says what the audit log holds; empty is no log")
	f.StringVar(&o.Path, "audit-log-path", "", "file of the audit log; - is standard output")
	f.StringVar(&o.Format, "audit-log-format", "json", "format of the audit log: json, a line per event")
	f.IntVar(&o.MaxAge, "audit-log-maxage", 0, "days after which a rotated audit log is removed; 0 is never")
	f.IntVar(&o.MaxBackups, "audit-log-maxbackup", 0, "how many rotated audit logs are kept; 0 is all")
	f.IntVar(&o.MaxSize, "audit-log-maxsize", 0, "megabytes after which the audit log is rotated; 0 is 100")
	f.BoolVar(&o.Compress, "audit-log-compress", false, "compress rotated audit logs with gzip")
}

// oidcFlags are kube-apiserver's.
func oidcFlags(f *pflag.FlagSet, o *authn.OIDCConfig) {
	f.StringVar(&o.IssuerURL, "oidc-issuer-url", "", "https URL of an OpenID issuer whose ID tokens authenticate users")
	f.StringVar(&o.ClientID, "oidc-client-id", "", "client that the issuer's tokens must be for")
	f.StringVar(&o.CAFile, "oidc-ca-file", "", "file with the authority of the issuer's certificate; empty is the host's authorities")
	f.StringVar(&o.UsernameClaim, "oidc-username-claim", "sub", "claim that names the user")
	f.StringVar(&o.UsernamePrefix, "oidc-username-prefix", "", "prefix of users' names; empty is the issuer's URL and #, for other claims than email; - is none")
	f.StringVar(&o.GroupsClaim, "oidc-groups-claim", "", "claim that names the user's groups, a string or a list of them")
	f.StringVar(&o.GroupsPrefix, "oidc-groups-prefix", "", "prefix of groups' names")
	f.StringToStringVar(&o.RequiredClaims, "oidc-required-claim", nil, "claim=value that a token must have; may be repeated")
	f.StringSliceVar(&o.SigningAlgs, "oidc-signing-algs", []string{"RS256"}, "algorithms with which tokens may be signed: RS256, RS384, RS512, ES256, ES384, ES512, PS256, PS384, PS512")
}

// checkOIDC refuses flags that mean nothing without an issuer.
func checkOIDC(f *pflag.FlagSet, o *authn.OIDCConfig) error {
	some := false
	f.Visit(func(flag *pflag.Flag) { some = some || strings.HasPrefix(flag.Name, "oidc-") })
	if some && (o.IssuerURL == "" || o.ClientID == "") {
		return errors.New("--oidc-issuer-url and --oidc-client-id must be specified together when any --oidc-* flags are set")
	}
	return nil
}

// openEncryption returns what encrypts the objects in etcd; nil if nothing does.
func (o *options) openEncryption() (*encryption.Provider, error) {
	if o.encryptionFile != "" {
		return encryption.Open(o.encryptionFile)
	}
	if o.encryptionReload {
		return nil, errors.New("--encryption-provider-config-automatic-reload needs --encryption-provider-config")
	}
	return nil, nil
}
