package differential

import "regexp"

// known is a difference that is explained in docs/api-differences.md.
type known struct {
	title    string // as in the document
	exchange *regexp.Regexp
	path     *regexp.Regexp
}

var differences []known

// explained finds the explanation of a difference.
func explained(d difference) *known {
	for i := range differences {
		if k := &differences[i]; k.exchange.MatchString(d.exchange) && k.path.MatchString(d.path) {
			return k
		}
	}
	return nil
}
