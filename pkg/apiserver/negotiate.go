package apiserver

import (
	"cmp"
	"net/http"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1beta1 "k8s.io/apimachinery/pkg/apis/meta/v1beta1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// accept is what a client asked for in its Accept header, and gets.
type accept struct {
	info   *runtime.SerializerInfo
	as     *schema.GroupVersionKind // Table, PartialObjectMetadata(List); nil: the object itself
	pretty bool
}

// allowed says whether a format may be sent as the given conversion (nil: none).
type allowed func(info *runtime.SerializerInfo, as *schema.GroupVersionKind) bool

// onlyPlain refuses all conversions.
func onlyPlain(_ *runtime.SerializerInfo, as *schema.GroupVersionKind) bool { return as == nil }

// metadataAllowed takes the conversions that resources have. JSON only for tables:
// their cells have no protobuf.
func metadataAllowed(info *runtime.SerializerInfo, as *schema.GroupVersionKind) bool {
	if as == nil {
		return true
	}
	if gv := as.GroupVersion(); gv != metav1.SchemeGroupVersion && gv != metav1beta1.SchemeGroupVersion {
		return false
	}
	switch as.Kind {
	case "Table":
		return info.MediaType != runtime.ContentTypeProtobuf
	case "PartialObjectMetadata", "PartialObjectMetadataList":
		return true
	}
	return false
}

// accept negotiates the response's format: the first clause, by weight, that can be
// met. It returns nil when none can.
func (c *codec) accept(r *http.Request, ok allowed) *accept {
	if ok == nil {
		ok = onlyPlain
	}
	pretty := wantsPretty(r)
	header := r.Header.Get("Accept")
	if header == "" {
		return &accept{info: &c.media[0], pretty: pretty}
	}
	for _, clause := range parseAccept(header) {
		for i := range c.media {
			info := &c.media[i]
			if !clause.matches(info) {
				continue
			}
			if stream := clause.params["stream"]; stream != "" && (info.StreamSerializer == nil || stream != "watch") {
				continue
			}
			var as *schema.GroupVersionKind
			if kind, asked := clause.params["as"]; asked || clause.params["g"] != "" || clause.params["v"] != "" {
				as = &schema.GroupVersionKind{Group: clause.params["g"], Version: clause.params["v"], Kind: kind}
			}
			if ok(info, as) {
				return &accept{info: info, as: as, pretty: pretty || clause.params["pretty"] == "1"}
			}
		}
	}
	return nil
}

// notAcceptable is the refusal when accept returned nil. Watches name their stream formats.
func (c *codec) notAcceptable(watch bool) error {
	types := c.mediaTypes()
	if watch {
		types = nil
		for i := range c.media {
			if c.media[i].StreamSerializer != nil {
				types = append(types, c.media[i].MediaType+";stream=watch")
			}
		}
	}
	return notAcceptable("only the following media types are accepted: " + strings.Join(types, ", "))
}

// refused is the refusal of a request for a resource. One that asks for nothing that is known gets no further than the
// route of the kind in Kubernetes; those of custom resources aren't routed that way.
func (c *codec) refused(r *http.Request, call *call) error {
	known := slices.ContainsFunc(parseAccept(r.Header.Get("Accept")), func(clause clause) bool {
		return slices.ContainsFunc(c.media, func(info runtime.SerializerInfo) bool { return clause.matches(&info) })
	})
	if known || call.kind.Custom != nil {
		return c.notAcceptable(false)
	}
	types := c.mediaTypes()
	if call.Verb == "list" || call.Verb == "watch" {
		for _, info := range c.media {
			if info.StreamSerializer != nil {
				types = append(types, info.MediaType+";stream=watch")
			}
		}
	}
	return unroutable(http.StatusNotAcceptable, "406: Not Acceptable\n\nAvailable representations: "+strings.Join(types, ", "))
}

// wantsPretty is true when the query says so, or for clients with a human behind them.
func wantsPretty(r *http.Request) bool {
	if strings.Contains(r.URL.RawQuery, "pretty") {
		if v := r.URL.Query().Get("pretty"); v != "" {
			pretty, _ := strconv.ParseBool(v)
			return pretty
		}
	}
	agent := r.UserAgent()
	return strings.HasPrefix(agent, "curl") || strings.HasPrefix(agent, "Wget") || strings.HasPrefix(agent, "Mozilla/5.0")
}

// clause is one element of an Accept header.
type clause struct {
	major, minor string
	weight       float64
	params       map[string]string
}

func (c *clause) matches(info *runtime.SerializerInfo) bool {
	return (c.major == "*" || c.major == info.MediaTypeType) && (c.minor == "*" || c.minor == info.MediaTypeSubType)
}

// parseAccept returns the clauses of an Accept header, best first (RFC 9110 §12.5.1; ties
// keep their order). Kubernetes' parameters need no quoting, so none is read.
func parseAccept(header string) []clause {
	var clauses []clause
	for part := range strings.SplitSeq(header, ",") {
		name, parameters, _ := strings.Cut(part, ";")
		major, minor, ok := strings.Cut(strings.TrimSpace(name), "/")
		if !ok {
			if major != "*" {
				continue
			}
			minor = "*"
		}
		c := clause{major: major, minor: minor, weight: 1}
		for field := range strings.SplitSeq(parameters, ";") {
			name, value, _ := strings.Cut(strings.TrimSpace(field), "=")
			switch name {
			case "":
			case "q":
				if weight, err := strconv.ParseFloat(value, 64); err == nil {
					c.weight = weight
				}
			default:
				if c.params == nil {
					c.params = map[string]string{}
				}
				c.params[name] = strings.Trim(value, `"`)
			}
		}
		clauses = append(clauses, c)
	}
	// A header may have a hundred thousand of them.
	slices.SortStableFunc(clauses, func(a, b clause) int { return cmp.Compare(b.weight, a.weight) })
	return clauses
}
