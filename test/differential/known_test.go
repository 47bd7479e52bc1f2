package differential

import "regexp"

// known is a difference that is explained in docs/api-differences.md.
type known struct {
	title    string // as in the document
	exchange *regexp.Regexp
	path     *regexp.Regexp
}

var differences []known

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
	{namesOfGo, regexp.MustCompile(`in scheme "[^"]*"`), "in scheme <scheme>"},
	{namesOfGo, regexp.MustCompile(`\(\*\w+\.(\w+)\)`), "($1)"},
	{namesOfGo, regexp.MustCompile(`of type \[\]\w+\.\w+`), "of a type"},
}

// explained finds the explanation of a difference.
func explained(d difference) *known {
	for i := range differences {
		if k := &differences[i]; k.exchange.MatchString(d.exchange) && k.path.MatchString(d.path) {
			return k
		}
	}
	return nil
}
