package main

import (
	"errors"

	"github.com/spf13/pflag"

	"skiff/pkg/apiserver/audit"
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
