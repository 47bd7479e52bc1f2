package certificates

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/diff"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/pkg/api"
	"skiff/pkg/api/check"
)

const shortest = 600 // seconds, that a certificate may be asked for

// usages are those of Kubernetes' API, in the order that its messages have.
var usages = slices.Sorted(slices.Values([]certificatesv1.KeyUsage{
	certificatesv1.UsageSigning, certificatesv1.UsageDigitalSignature, certificatesv1.UsageContentCommitment, certificatesv1.UsageKeyEncipherment,
	certificatesv1.UsageKeyAgreement, certificatesv1.UsageDataEncipherment, certificatesv1.UsageCertSign, certificatesv1.UsageCRLSign,
	certificatesv1.UsageEncipherOnly, certificatesv1.UsageDecipherOnly, certificatesv1.UsageAny, certificatesv1.UsageServerAuth,
	certificatesv1.UsageClientAuth, certificatesv1.UsageCodeSigning, certificatesv1.UsageEmailProtection, certificatesv1.UsageSMIME,
	certificatesv1.UsageIPsecEndSystem, certificatesv1.UsageIPsecTunnel, certificatesv1.UsageIPsecUser, certificatesv1.UsageTimestamping,
	certificatesv1.UsageOCSPSigning, certificatesv1.UsageMicrosoftSGC, certificatesv1.UsageNetscapeSGC,
}))

var verdicts = []certificatesv1.RequestConditionType{certificatesv1.CertificateApproved, certificatesv1.CertificateDenied}

func validateRequest(obj api.Object) field.ErrorList {
	r := obj.(*certificatesv1.CertificateSigningRequest)
	at := field.NewPath("spec")
	var errs check.Errors
	if err := signed(r.Spec.Request); err != nil {
		errs = append(errs, field.Invalid(at.Child("request"), r.Spec.Request, err.Error()))
	}
	if len(r.Spec.Usages) == 0 {
		errs = append(errs, field.Required(at.Child("usages"), ""))
	}
	for i, u := range r.Spec.Usages {
		errs = append(errs, check.OneOf(at.Child("usages").Index(i), u, usages...)...)
	}
	for i, u := range r.Spec.Usages {
		if slices.Contains(r.Spec.Usages[:i], u) {
			errs = append(errs, field.Duplicate(at.Child("usages").Index(i), u))
		}
	}
	if r.Spec.SignerName == "kubernetes.io/legacy-unknown" {
		errs = append(errs, field.Invalid(at.Child("signerName"), r.Spec.SignerName, "the legacy signerName is not allowed via this API version"))
	} else {
		errs = append(errs, signer(at.Child("signerName"), r.Spec.SignerName)...)
	}
	if s := r.Spec.ExpirationSeconds; s != nil && *s < shortest {
		errs = append(errs, field.Invalid(at.Child("expirationSeconds"), *s, "may not specify a duration less than 600 seconds (10 minutes)"))
	}
	return slices.Concat(errs, conditions(field.NewPath("status", "conditions"), r, nil), certificate(r, nil))
}

// signed says what is wrong with a request in PEM, or with its signature.
func signed(request []byte) error {
	block, _ := pem.Decode(request)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return errors.New("PEM block type must be CERTIFICATE REQUEST")
	}
	parsed, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return err
	}
	return parsed.CheckSignature()
}

// signer is a domain of two labels or more, and a path of subdomains: example.com/signer-name.
func signer(at *field.Path, name string) check.Errors {
	if name == "" {
		return check.Errors{field.Required(at, "")}
	}
	domain, path, ok := strings.Cut(name, "/")
	if !ok || strings.Contains(path, "/") {
		return check.Errors{field.Invalid(at, name, "must be a fully qualified domain and path of the form 'example.com/signer-name'")}
	}
	const most = utilvalidation.DNS1123SubdomainMaxLength
	var errs check.Errors
	if len(domain) > most {
		errs = append(errs, field.TooLong(at, "", most))
	}
	parts := func(whole string, rule func(string) []string) {
		for part := range strings.SplitSeq(whole, ".") {
			if wrong := rule(part); len(wrong) > 0 { // one part tells enough
				for _, message := range wrong {
					errs = append(errs, field.Invalid(at, whole, fmt.Sprintf("validating label %q: %s", part, message)))
				}
				return
			}
		}
	}
	parts(domain, utilvalidation.IsDNS1123Label)
	if !strings.Contains(domain, ".") {
		errs = append(errs, field.Invalid(at, domain, "should be a domain with at least two segments separated by dots"))
	}
	parts(path, utilvalidation.IsDNS1123Subdomain)
	if longest := most + most + utilvalidation.DNS1123LabelMaxLength + 2; len(name) > longest {
		errs = append(errs, field.TooLong(at, "", longest))
	}
	return errs
}

// conditions checks a request's verdicts. Faults that old has already may stay.
func conditions(at *field.Path, r, old *certificatesv1.CertificateSigningRequest) check.Errors {
	var errs check.Errors
	both := old != nil && slices.ContainsFunc(old.Status.Conditions, is(verdicts[0])) && slices.ContainsFunc(old.Status.Conditions, is(verdicts[1]))
	twice := old != nil && doubled(old)
	untyped := old != nil && slices.ContainsFunc(old.Status.Conditions, is(""))
	for i, c := range r.Status.Conditions {
		before := r.Status.Conditions[:i]
		if c.Type == "" && !untyped {
			errs = append(errs, field.Required(at.Index(i).Child("type"), ""))
		}
		possible := []corev1.ConditionStatus{corev1.ConditionFalse, corev1.ConditionTrue, corev1.ConditionUnknown}
		if c.Type == certificatesv1.CertificateFailed || slices.Contains(verdicts, c.Type) {
			possible = []corev1.ConditionStatus{corev1.ConditionTrue}
		}
		errs = append(errs, check.Choice(at.Index(i).Child("status"), c.Status, possible...)...)
		if j := slices.Index(verdicts, c.Type); j >= 0 && !both && slices.ContainsFunc(before, is(verdicts[1-j])) {
			errs = append(errs, field.Invalid(at, c.Type, "Approved and Denied conditions are mutually exclusive"))
		}
		if !twice && slices.ContainsFunc(before, is(c.Type)) {
			errs = append(errs, field.Duplicate(at.Index(i).Child("type"), c.Type))
		}
	}
	return errs
}

func is(t certificatesv1.RequestConditionType) func(certificatesv1.CertificateSigningRequestCondition) bool {
	return func(c certificatesv1.CertificateSigningRequestCondition) bool { return c.Type == t }
}

func doubled(r *certificatesv1.CertificateSigningRequest) bool {
	for i, c := range r.Status.Conditions {
		if slices.ContainsFunc(r.Status.Conditions[:i], is(c.Type)) {
			return true
		}
	}
	return false
}

// certificate checks what a signer has issued, if it is new.
func certificate(r, old *certificatesv1.CertificateSigningRequest) check.Errors {
	if old != nil && (bytes.Equal(r.Status.Certificate, old.Status.Certificate) || issued(old.Status.Certificate) != nil) {
		return nil
	}
	if err := issued(r.Status.Certificate); err != nil {
		return check.Errors{field.Invalid(field.NewPath("status", "certificate"), "<certificate data>", err.Error())}
	}
	return nil
}

func issued(chain []byte) error {
	if len(chain) == 0 {
		return nil
	}
	blocks := 0
	for block, rest := pem.Decode(chain); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			return fmt.Errorf("only CERTIFICATE PEM blocks are allowed, found %q", block.Type)
		}
		if len(block.Headers) != 0 {
			return errors.New("no PEM block headers are permitted")
		}
		parsed, err := x509.ParseCertificates(block.Bytes)
		if err != nil {
			return err
		}
		if len(parsed) == 0 {
			return errors.New("found CERTIFICATE PEM block containing 0 certificates")
		}
		blocks++
	}
	if blocks == 0 {
		return errors.New("must contain at least one CERTIFICATE PEM block")
	}
	return nil
}

// Each way of updating may change its own part: approval the verdict, status the certificate.
func validateRequestUpdate(obj, old api.Object) field.ErrorList {
	return successor(obj, old, false, false)
}

func validateApproval(obj, old api.Object) field.ErrorList { return successor(obj, old, true, false) }

func validateStatus(obj, old api.Object) field.ErrorList { return successor(obj, old, false, true) }

func successor(obj, old api.Object, mayJudge, mayIssue bool) field.ErrorList {
	r, was := obj.(*certificatesv1.CertificateSigningRequest), old.(*certificatesv1.CertificateSigningRequest)
	at := field.NewPath("status", "conditions")
	errs := slices.Concat(conditions(at, r, was), certificate(r, was)) // the spec doesn't change
	for _, t := range append(slices.Clone(verdicts), certificatesv1.CertificateFailed) {
		if len(indices(r, t)) < len(indices(was, t)) {
			errs = append(errs, field.Forbidden(at, fmt.Sprintf("updates may not remove a condition of type %q", t)))
		}
	}
	for _, t := range verdicts {
		now, before := ofType(r, t), ofType(was, t)
		switch {
		case mayJudge || len(now) < len(before):
		case len(now) > len(before):
			errs = append(errs, field.Forbidden(at, fmt.Sprintf("updates may not add a condition of type %q", t)))
		case !equality.Semantic.DeepEqual(now, before):
			errs = append(errs, field.Forbidden(at, fmt.Sprintf("updates may not modify a condition of type %q\n%v", t, diff.Diff(before, now))))
		}
	}
	if !bytes.Equal(r.Status.Certificate, was.Status.Certificate) {
		switch at := field.NewPath("status", "certificate"); {
		case !mayIssue:
			errs = append(errs, field.Forbidden(at, "updates may not set certificate content"))
		case len(was.Status.Certificate) > 0:
			errs = append(errs, field.Forbidden(at, "updates may not modify existing certificate content"))
		}
	}
	return errs
}

func ofType(r *certificatesv1.CertificateSigningRequest, t certificatesv1.RequestConditionType) []certificatesv1.CertificateSigningRequestCondition {
	var found []certificatesv1.CertificateSigningRequestCondition
	for _, i := range indices(r, t) {
		found = append(found, r.Status.Conditions[i])
	}
	return found
}
