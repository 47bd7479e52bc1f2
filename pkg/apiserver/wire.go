package apiserver

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff/pkg/api"
	"skiff/pkg/apiserver/admission"
	"skiff/pkg/apiserver/admission/policy"
	"skiff/pkg/apiserver/admission/webhook"
	"skiff/pkg/apiserver/authn"
	"skiff/pkg/apiserver/authz"
	"skiff/pkg/apiserver/hookclient"
	"skiff/pkg/apiserver/lookup"
)

// Security says who is trusted: the files and names from which authentication is made.
type Security struct {
	ClientCAFile string // empty: client certificates mean nothing
	// FrontProxy says which proxies are believed who makes a request. Servers of aggregated APIs are told the same.
	FrontProxy authn.FrontProxyConfig

	KeyFiles       []string // verify service account tokens
	SigningKeyFile string   // signs them
	Issuers        []string // accepted; the first one signs
	KeysURI        string   // where others find the keys; empty: this server
	Audiences      []string // empty: the first issuer
	MaxExpiration  time.Duration
	// ExtendExpiration lets tokens of default volumes live longer than asked.
	ExtendExpiration bool
	// OIDC says whose tokens are believed beside the server's own.
	OIDC authn.OIDCConfig
	// NoAnonymous refuses requests without credentials.
	NoAnonymous bool
	// BootstrapTokens lets machines that join authenticate by the tokens in secrets of kube-system.
	BootstrapTokens bool
}

// Secure fills in the configuration's authentication, authorization and admission. Nothing runs
// before [Run].
func Secure(cfg *Config, s Security) error {
	rows := lookup.NewStore(cfg.Store, byResource(cfg.Catalogue))
	authorizer, err := authz.New(rows)
	if err != nil {
		return err
	}
	cfg.complete()
	policies := policy.New(policy.Config{Catalogue: cfg.Catalogue, Objects: rows, Feed: rows, Authorizer: authorizer, Types: cfg.managers.Types})
	webhooks := webhook.New(webhook.Config{Feed: rows, Services: hookclient.Services(rows), Authorizer: authorizer})
	chain, err := admission.New(admission.Config{
		Objects: rows, Authorizer: authorizer, Catalogue: cfg.Catalogue, Dynamic: []admission.Dynamic{policies, webhooks},
	})
	if err != nil {
		return err
	}
	users := authn.Config{NoAnonymous: s.NoAnonymous}
	if s.ClientCAFile != "" {
		if users.Certificates, err = authn.NewCertificates(s.ClientCAFile); err != nil {
			return err
		}
	}
	if users.FrontProxy, err = authn.NewFrontProxy(s.FrontProxy); err != nil {
		return err
	}
	cfg.Trust = s.trust
	keys, err := authn.ReadKeys(s.KeyFiles...)
	if err != nil {
		return fmt.Errorf("service account keys: %w", err)
	}
	signing, err := authn.ReadKeys(s.SigningKeyFile)
	if err != nil {
		return fmt.Errorf("service account signing key: %w", err)
	}
	if len(keys) == 0 {
		keys = signing
	}
	if users.Tokens, err = authn.NewTokens(authn.TokensConfig{Issuers: s.Issuers, Keys: keys, Audiences: s.Audiences, Objects: rows}); err != nil {
		return err
	}
	if s.BootstrapTokens {
		users.Bootstrap = &authn.BootstrapTokens{Objects: rows}
	}
	if s.OIDC.IssuerURL != "" {
		if slices.Contains(s.Issuers, s.OIDC.IssuerURL) {
			return fmt.Errorf("oidc: issuer %s is that of service account tokens", s.OIDC.IssuerURL)
		}
		if users.OIDC, err = authn.NewOIDC(s.OIDC); err != nil {
			return err
		}
		cfg.addPart("OpenID issuer", users.OIDC.Run)
	}
	issuer, err := authn.NewIssuer(authn.IssuerConfig{
		Issuer: s.Issuers[0], Key: signing[0], Audiences: s.Audiences,
		MaxExpiration: s.MaxExpiration, ExtendExpiration: s.ExtendExpiration, Objects: rows,
	})
	if err != nil {
		return err
	}
	if err := serveKeys(cfg, s, keys); err != nil {
		return err
	}
	authenticator := authn.New(users)
	cfg.Authenticator, cfg.Authorizer, cfg.Admission = authenticator, authorizer, chain
	cfg.Reviews = &reviews{authenticator, authorizer, issuer}
	cfg.Health.Ready("authorizer", authorizer.Ready)
	cfg.Health.Ready("poststarthook/rbac/bootstrap-roles", authorizer.BootstrapReady)
	cfg.Health.Ready("admission-policies", policies.Ready)
	cfg.addPart("authorizer", authorizer.Run)
	cfg.addPart("admission policies", policies.Run)
	cfg.addPart("admission webhooks", webhooks.Run)
	cfg.addPart("priority classes", func(ctx context.Context) error {
		if err := admission.Bootstrap(ctx, rows); err != nil {
			return err
		}
		<-ctx.Done()
		return nil
	})
	return nil
}

func (c *Config) addPart(name string, run func(context.Context) error) {
	if c.Parts == nil {
		c.Parts = map[string]func(context.Context) error{}
	}
	c.Parts[name] = run
}

// serveKeys adds the issuer's OpenID discovery, if its name is one that can be discovered.
func serveKeys(cfg *Config, s Security, keys []*authn.Key) error {
	discovery, err := authn.NewDiscovery(s.Issuers[0], s.KeysURI, net.JoinHostPort(cfg.AdvertiseAddress.String(), strconv.Itoa(cfg.AdvertisePort)), keys)
	if err != nil {
		cfg.complete()
		cfg.Logger.Info("the service account issuer can't be discovered", "reason", err)
		return nil
	}
	if cfg.More == nil {
		cfg.More = map[string]http.Handler{}
	}
	cfg.More[authn.DiscoveryPath] = discovery
	cfg.More[authn.KeysPath] = discovery
	return nil
}

// byResource finds the row of a resource in whatever version is served; the stored one, if
// there are several.
func byResource(rows *api.Catalogue) func(schema.GroupResource) *api.Kind {
	type index struct {
		view  *api.View
		kinds map[schema.GroupResource]*api.Kind
	}
	var current atomic.Pointer[index]
	return func(gr schema.GroupResource) *api.Kind {
		view := rows.View()
		known := current.Load()
		if known == nil || known.view != view {
			known = &index{view: view, kinds: map[schema.GroupResource]*api.Kind{}}
			for _, k := range view.Kinds() {
				if _, ok := known.kinds[k.GroupResource()]; !ok && !k.Virtual {
					known.kinds[k.GroupResource()] = k
				}
			}
			current.Store(known)
		}
		return known.kinds[gr]
	}
}

// reviews answers questions out of the authenticator and the authorizer.
type reviews struct {
	authn  *authn.Authenticator
	authz  *authz.Authorizer
	issuer *authn.Issuer
}

func (r *reviews) Review(ctx context.Context, kind *api.Kind, _ string, obj api.Object) (api.Object, error) {
	switch o := obj.(type) {
	case *authenticationv1.TokenReview:
		return r.authn.ReviewToken(ctx, o)
	case *authenticationv1.SelfSubjectReview:
		return authn.ReviewSelf(ctx)
	}
	if kind.Group == "authorization.k8s.io" {
		return r.authz.Review(ctx, obj)
	}
	return nil, apierrors.NewMethodNotSupported(kind.GroupResource(), "create")
}

func (r *reviews) Token(ctx context.Context, namespace, name string, req *authenticationv1.TokenRequest, validate func(*authenticationv1.TokenRequest) error) (*authenticationv1.TokenRequest, error) {
	return r.issuer.Request(ctx, namespace, name, req, validate)
}
