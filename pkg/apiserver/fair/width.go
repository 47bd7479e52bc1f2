package fair

import (
	"net/url"
	"strconv"
)

const (
	// objectsPerSeat is how many objects of a list weigh as much as any other request.
	objectsPerSeat = 100
	// widest is the most seats that a list takes, before its level's own limit.
	widest = 100
)

// ListWidth is how many seats a list takes, or the start of a watch: count says how many objects there are to be looked at. A limit
// helps only where nothing is selected, for else more may be looked at than is found.
func ListWidth(watch, selective bool, query url.Values, count func(limit int) int) int {
	if watch && query.Get("sendInitialEvents") != "true" {
		switch query.Get("resourceVersion") {
		case "", "0":
		default:
			return 1 // it goes on where it was
		}
	}
	most := objectsPerSeat * widest
	if limit, err := strconv.Atoi(query.Get("limit")); err == nil && limit > 0 && !selective && !watch {
		most = min(most, limit)
	}
	return max(1, (count(most)+objectsPerSeat-1)/objectsPerSeat)
}
