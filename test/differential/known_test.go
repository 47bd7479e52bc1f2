package differential

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// known is a difference that is explained in docs/api-differences.md.
type known struct {
	title          string // as in the document
	exchange, path *regexp.Regexp
	kubernetes     *regexp.Regexp // what the other says
}

func differs(title, exchange, path, kubernetes string) known {
	return known{title, regexp.MustCompile(exchange), regexp.MustCompile(path), regexp.MustCompile(kubernetes)}
}

var differences = []known{
	differs("Faults of a client", ": (watch with a bad version|update of a bad version|update with first twice at .spec.ports)$", "^status$", "^500 "),
	differs("Protection of volumes and classes", "^(persistentvolume|volumeattributesclass)", `finalizers`, "-protection"),
	differs("Aggregated roles", "^rights: clusterroles (admin|edit|view)$", `rules$`, "^null$"),
	differs("Empty lists", "", `\.items$`, "^null$"),
	differs("Protection of volumes and classes", "^(persistentvolume|volumeattributesclass)[^:]*: (get|delete the collection for nothing)$", `resourceVersion$`, "a new version"),
	differs("Protection of volumes and classes", "^(persistentvolume|volumeattributesclass)[^:]*: watch$", `^body$`, "-protection"),
	differs("Slips", `^ipaddresses.*: (get|list|watch) .*table`, `\.rows\[\d+\]\.cells$`, ""),
	differs("Slips", `^ipaddresses.*: create with metadata generateName$`, `message$|details\.name$`, `generated-\\?"`),
	differs("Slips", `^(mutating|validating)webhook.*: create with (empty|nothing) at \.webhooks\.0\.clientConfig\.service\.name(space)?$`, `message$|field$`, ""),
	differs("Slips", "^conversions by webhooks: (patch|apply) pruned in v2$", "managedFields", ""),
	differs("Slips", "^custom: several faults$", `causes\[\d+\]|message$`, ""),
	differs("Slips", "^persistentvolumeclaims: update with nothing changed$", "resourceVersion$", "a new version"),
	differs("Types of policies", "^validatingadmissionpolicies", `status\.(observedGeneration|typeChecking)$|managedFields$|resourceVersion$`, ""),
	differs("Types of policies", "^validatingadmissionpolicies[^:]*: watch$", "^body$", ""),
	differs("Definitions go at once", "^customresourcedefinitions[^:]*: (get what is being deleted|delete in the foreground again|add a finalizer too late|take the finalizers away)$", "^status$", "^(200|422)"),
	differs("Definitions go at once", "^customresourcedefinitions[^:]*: watch$", "^body$", ""),
	differs("Empty lists", "^(widgets|conversions)", `metadata\.continue$`, `^""$`),
	differs("Bookmarks", ": watch from the start$", `^body\[\d+\]\.object\.(spec\.replicas|metadata\.annotations\..*template\.generation)$`, `^"?0"?$`),
	differs("Template generations", `^daemonsets.*: (get|list|watch) (a table|tables|metadata)$`, `metadata\.annotations$`, "^absent$"),
	differs("Broken off", `^jobs.*: (create|update) with nothing at \.spec\.completions$`, "^status$", "^0$"),
	differs("Additions of the reference", "^(pods|bounds): ", `projected\.sources`, "openshift-service-ca.crt"),
	differs("Additions of the reference", "^rights: clusterroles ", `rules`, "endpointslices/restricted"),
	differs("Bootstrap objects without managers", "^rights: (cluster)?role(binding)?s ", `metadata\.managedFields$`, `"manager":"kube-apiserver"`),
	differs("Reviews without managers", "^(reviews|serviceaccounts): ", `metadata\.managedFields$`, `^\[\{"apiVersion":"auth`),
	differs("Warnings of refused requests", "^endpoints: (list as what isn't served|patch of (an unknown|no) type)$", "^warnings$", ""),
	differs("Checks of health", `^discovery: GET /(readyz\?verbose)?$`, `^body(\.paths)?$`, "readyz/|readyz check passed"),
	differs("Keys of tokens", "^discovery: GET /openid/v1/jwks$", "^status$", "^406"),
	differs("Slashes in names", "^errors: GET .*/configmaps/%2F$", "^status$", "^200"),
	differs("Addresses and versions of the server", "^(discovery|rights): ", `serverAddress$|jwks_uri$|gitVersion|gitCommit|buildDate|gitTreeState|goVersion|compiler|platform`, ""),

	differs("Addresses and versions of the server", "^openapi: ", `info\.version$`, ""),
	differs("Texts in OpenAPI documents", "^openapi: ", `description$`, "Possible enum values"),
	differs("Texts in OpenAPI documents", "^openapi: ", `\.(inlineVolumeSpec|setHostnameAsFQDN|fsGroup|certificate|maxSkew|minDomains|validationActions|IntOrString)\.`, ""),
	differs("Texts in OpenAPI documents", "^openapi: groups$", "^type$", "^\"text/plain"),
	differs("What OpenAPI documents leave out", "^openapi: ", `query shardSelector$|(WatchEvent|RawExtension)$|ScaleSpec\.properties\.replicas\.default$`, ""),
	differs("What OpenAPI documents leave out", "^openapi: /openapi/v2$", `DeleteOptions\.x-kubernetes-group-version-kind$`, "beta1"),
	differs("Storage of definitions", "^discovery: GET /apis/apiextensions.k8s.io/v1$", "storageVersionHash$", "^\"jfWCUB31mvA=\"$"),
	differs("What OpenAPI documents leave out", "^custom: GET /openapi/", `components\.schemas\.io\.k8s\.|securitySchemes$|info\.(title|version)$`, ""),
}

// wording is a part of a message that may differ, and is made equal before messages are compared.
type wording struct {
	title   string // as in the document
	text    *regexp.Regexp
	instead string
}

const (
	objectsInMessages = "Objects in messages"
	namesOfGo         = "Names of Go"
)

var wordings = []wording{
	{objectsInMessages, regexp.MustCompile(`value: "\{(\\.|[^"\\])*"`), "value: <object>"},
	{objectsInMessages, regexp.MustCompile(`value: (\{.*?\}|\[.*?\])(: |, |\]?$)`), "value: <object>$2"},
	{objectsInMessages, regexp.MustCompile(`(?s)\n@@ .*`), " <comparison>"},
	{objectsInMessages, regexp.MustCompile(`(?s)(Object 'Kind' is missing in )'.*'`), "$1<object>"},
	{namesOfGo, regexp.MustCompile(`in scheme "[^"]*"`), "in scheme <scheme>"},
	{namesOfGo, regexp.MustCompile(`\(\*\w+\.(\w+)\)`), "($1)"},
	{namesOfGo, regexp.MustCompile(`of type \[\]\w+\.\w+`), "of a type"},
	{namesOfGo, regexp.MustCompile(`requested .* without impersonating`), "requested <user> without impersonating"},
}

// explained finds the explanation of a difference.
func explained(d difference) *known {
	for i := range differences {
		if k := &differences[i]; k.exchange.MatchString(d.exchange) && k.path.MatchString(d.path) && k.kubernetes.MatchString(d.kubernetes) {
			return k
		}
	}
	return nil
}

// What is taken for known is explained to people as well.
func TestDifferencesAreDocumented(t *testing.T) {
	document, err := os.ReadFile("../../docs/api-differences.md")
	if err != nil {
		t.Fatal(err)
	}
	titles := []string{"Said once"}
	for _, d := range differences {
		titles = append(titles, d.title)
	}
	for _, w := range wordings {
		titles = append(titles, w.title)
	}
	for _, title := range titles {
		if !strings.Contains(string(document), "\n### "+title+"\n") {
			t.Errorf("docs/api-differences.md has no chapter %q", title)
		}
	}
}
