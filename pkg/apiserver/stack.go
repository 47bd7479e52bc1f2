package apiserver

// stackRoom is what the stacks of most requests grow to.
const stackRoom = 24 << 10

// growStack grows the stack of a request's goroutine once and for all. New goroutines have a few kilobytes; on the way down through
// filters, decoders and field managers the runtime would double that again and again, and copy an ever deeper stack.
//
//go:noinline
func growStack(at int) byte {
	var room [stackRoom]byte
	return room[at&1]
}
