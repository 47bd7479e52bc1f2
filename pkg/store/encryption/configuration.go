package encryption

import (
	"bytes"
	"crypto/aes"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/apis/apiserver"
	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	"k8s.io/apiserver/pkg/apis/apiserver/validation"
	"k8s.io/apiserver/pkg/storage/value"
	aestransformer "k8s.io/apiserver/pkg/storage/value/encrypt/aes"
	"k8s.io/apiserver/pkg/storage/value/encrypt/secretbox"
	"sigs.k8s.io/yaml"
)

// configuration is a file's content: rules in order.
type configuration struct{ rules []rule }

// rule says what becomes of some resources.
type rule struct {
	resources []string
	keys      []key // the first one writes
}

// key is one key of a provider. id is different for keys that differ, though their names may not; it and prefix
// are empty for the identity provider.
type key struct {
	id, prefix  string
	transformer value.Transformer
}

// identity leaves everything as it is.
var identity = rule{keys: []key{{}}}

// parse reads a file. Errors name no secrets.
func parse(data []byte) (*configuration, error) {
	var file apiserverv1.EncryptionConfiguration
	if err := yaml.UnmarshalStrict(data, &file); err != nil {
		return nil, err
	}
	if want := apiserverv1.SchemeGroupVersion.WithKind("EncryptionConfiguration"); file.GroupVersionKind() != want {
		return nil, fmt.Errorf("it is a %s %s, not an %s %s", file.APIVersion, file.Kind, want.GroupVersion(), want.Kind)
	}
	for i, r := range file.Resources {
		for j, p := range r.Providers {
			if p.KMS != nil {
				return nil, fmt.Errorf("resources[%d].providers[%d]: key management services (kms) are not supported; use aesgcm, aescbc, secretbox or identity", i, j)
			}
			// Kubernetes' validation would put the keys into its error.
			set := 0
			for _, is := range []bool{p.AESGCM != nil, p.AESCBC != nil, p.Secretbox != nil, p.Identity != nil} {
				if is {
					set++
				}
			}
			if set > 1 {
				return nil, fmt.Errorf("resources[%d].providers[%d]: more than one provider specified in a single element, should split into different list elements", i, j)
			}
		}
	}
	var internal apiserver.EncryptionConfiguration
	if err := apiserverv1.Convert_v1_EncryptionConfiguration_To_apiserver_EncryptionConfiguration(&file, &internal, nil); err != nil {
		return nil, err
	}
	if errs := validation.ValidateEncryptionConfiguration(&internal, false); len(errs) > 0 {
		return nil, errs.ToAggregate()
	}
	c := &configuration{}
	for _, r := range file.Resources {
		one := rule{resources: r.Resources}
		for _, p := range r.Providers {
			keys, err := keysOf(&p)
			if err != nil {
				return nil, err
			}
			one.keys = append(one.keys, keys...)
		}
		c.rules = append(c.rules, one)
	}
	return c, nil
}

func keysOf(p *apiserverv1.ProviderConfiguration) ([]key, error) {
	switch {
	case p.AESGCM != nil:
		return transformers("aesgcm", p.AESGCM.Keys, func(secret []byte) (value.Transformer, error) {
			block, err := aes.NewCipher(secret)
			if err != nil {
				return nil, err
			}
			return aestransformer.NewGCMTransformer(block)
		})
	case p.AESCBC != nil:
		return transformers("aescbc", p.AESCBC.Keys, func(secret []byte) (value.Transformer, error) {
			block, err := aes.NewCipher(secret)
			if err != nil {
				return nil, err
			}
			return aestransformer.NewCBCTransformer(block), nil
		})
	case p.Secretbox != nil:
		return transformers("secretbox", p.Secretbox.Keys, func(secret []byte) (value.Transformer, error) {
			return secretbox.NewSecretboxTransformer([32]byte(secret)), nil
		})
	}
	return identity.keys, nil
}

func transformers(provider string, all []apiserverv1.Key, make func(secret []byte) (value.Transformer, error)) ([]key, error) {
	var keys []key
	for _, k := range all {
		secret, err := base64.StdEncoding.DecodeString(k.Secret)
		if err != nil {
			return nil, fmt.Errorf("key %s of %s: %w", k.Name, provider, err)
		}
		transformer, err := make(secret)
		if err != nil {
			return nil, fmt.Errorf("key %s of %s: %w", k.Name, provider, err)
		}
		prefix, fingerprint := encrypted+provider+":v1:"+k.Name+":", sha256.Sum256(secret)
		keys = append(keys, key{id: prefix + string(fingerprint[:8]), prefix: prefix, transformer: transformer})
	}
	return keys, nil
}

// ruleFor is the first rule that names a resource: as itself, by its group, or as one of all.
func (c *configuration) ruleFor(resource schema.GroupResource) *rule {
	for i := range c.rules {
		for _, name := range c.rules[i].resources {
			if name == resource.String() || name == "*."+resource.Group || name == "*.*" {
				return &c.rules[i]
			}
		}
	}
	return &identity
}

// encrypted begins everything that was encrypted.
const encrypted = "k8s:enc:"

// open decrypts what etcd holds below a key of its own.
func (r *rule) open(data, context []byte) (plain []byte, id string, err error) {
	var failed []string
	for _, k := range r.keys {
		if k.prefix == "" {
			if !bytes.HasPrefix(data, []byte(encrypted)) {
				return data, "", nil
			}
			continue
		}
		rest, ok := bytes.CutPrefix(data, []byte(k.prefix))
		if !ok {
			continue
		}
		// Several may have this name, while one takes the other's place.
		plain, _, err := k.transformer.TransformFromStorage(contextless, rest, value.DefaultContext(context))
		if err == nil {
			return plain, k.id, nil
		}
		failed = append(failed, fmt.Sprintf("key %s does not fit: %v", describe(k.prefix), err))
	}
	switch {
	case len(failed) > 0:
		return nil, "", fmt.Errorf("%s", strings.Join(failed, "; "))
	case bytes.HasPrefix(data, []byte(encrypted)):
		return nil, "", fmt.Errorf("key %s is not in the encryption configuration for this resource", describe(string(data)))
	}
	return nil, "", fmt.Errorf("it is not encrypted, and the encryption configuration for this resource has no identity provider")
}

// describe names the key that a value's prefix names.
func describe(data string) string {
	parts := strings.SplitN(strings.TrimPrefix(data, encrypted), ":", 4)
	if len(parts) < 4 || len(parts[2]) > 253 {
		return "of an unknown provider"
	}
	return fmt.Sprintf("%q of %s", parts[2], parts[0])
}

func (r *rule) seal(plain, context []byte) (data []byte, id string, err error) {
	k := r.keys[0]
	if k.prefix == "" {
		return plain, "", nil
	}
	if data, err = k.transformer.TransformToStorage(contextless, plain, value.DefaultContext(context)); err != nil {
		return nil, "", err
	}
	return slices.Concat([]byte(k.prefix), data), k.id, nil
}
