package apiserver

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	"google.golang.org/protobuf/encoding/protowire"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff/pkg/api"
	"skiff/pkg/apiserver/request"
	"skiff/pkg/store"
)

// watch streams events until the client goes, the time is over or the server stops.
func (s *server) watch(w http.ResponseWriter, r *http.Request, c *call) error {
	options, err := listOptions(r, c.kind)
	if err != nil {
		return err
	}
	query, err := c.query(options)
	if err != nil {
		return err
	}
	if c.accept.info.StreamSerializer == nil {
		return s.codec.notAcceptable(true)
	}
	frames, err := newFramer(r, c)
	if err != nil {
		return err
	}
	if _, err := readRevision(options.ResourceVersion); err != nil {
		return err
	}
	timeout := s.watchTime()
	if options.TimeoutSeconds != nil && *options.TimeoutSeconds > 0 {
		timeout = time.Duration(*options.TimeoutSeconds) * time.Second
	}
	ctx, cancel := context.WithTimeout(r.Context(), timeout)
	defer cancel()
	// Who doesn't read isn't told of the end either.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(timeout + farewell))

	watch, failed := s.store.Watch(ctx, c.kind, store.WatchQuery{
		Namespace: query.Namespace, Name: query.Name, Labels: query.Labels, Fields: query.Fields,
		ResourceVersion: options.ResourceVersion, Match: string(options.ResourceVersionMatch),
		SendInitialEvents: options.SendInitialEvents, Bookmarks: options.AllowWatchBookmarks,
		Started: func() { request.Started(ctx) },
	})
	if errors.Is(failed, store.ErrOutOfReach) {
		w.Header().Set("Connection", "close") // the next connection may lead to a server that reaches it
		return apierrors.NewTimeoutError(failed.Error(), 1)
	}
	out, err := newSink(w, r, frames, cancel)
	if err != nil {
		return nil // the upgrade has answered
	}
	defer out.close()
	// Other errors are events in the stream. Clients that resume from a revision that is
	// gone expect just that.
	if failed != nil {
		s.endWatch(ctx, out, frames, failed)
		return nil
	}
	sent := s.metrics.watchEvents.WithLabelValues(c.kind.Group, c.kind.Version, c.kind.Resource)
	events := make([]store.Event, 0, 128)
	for {
		events, err = watch.Next(events[:0])
		if err != nil {
			s.endWatch(ctx, out, frames, err)
			return nil
		}
		for i := range events {
			frame, err := frames.event(&events[i])
			if err != nil {
				s.endWatch(ctx, out, frames, err)
				return nil
			}
			sent.Inc()
			if out.write(frame) != nil {
				return nil
			}
		}
		if out.flush() != nil {
			return nil
		}
		frames.release()
	}
}

// farewell is how long the end of a watch may take to be written.
const farewell = time.Second

// watchTime spreads the ends of watches, so that clients don't all come back at once.
func (s *server) watchTime() time.Duration {
	return s.cfg.MinWatch + rand.N(s.cfg.MinWatch)
}

// endWatch reports what ended a watch, unless it is its time, or the client shall just go on elsewhere:
// after an error it would list everything again.
func (s *server) endWatch(ctx context.Context, out sink, frames *framer, err error) {
	if errors.Is(err, store.ErrForgotten) {
		return // the definition of a custom resource was changed or went: the client finds out when it comes back
	}
	if ctx.Err() != nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, store.ErrOutOfReach) {
		return
	}
	st := status(ctx, s.logger, err)
	st.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}
	if frame, err := frames.status(st); err == nil && out.write(frame) == nil {
		_ = out.flush()
	}
}

// framer turns events into frames of one format.
type framer struct {
	call     *call
	shape    shape
	protobuf bool
	table    *metav1.TableOptions // not nil: as tables
	head     []byte               // of each object
	key      string               // of its encoding
	buf      *[]byte              // of the last frame; nil: has been given back
}

func newFramer(r *http.Request, c *call) (*framer, error) {
	f := &framer{
		call:     c,
		shape:    shapeFor(c.accept),
		protobuf: c.accept.info.MediaType == runtime.ContentTypeProtobuf,
	}
	gvk := c.kind.GroupVersionKind
	if as := c.accept.as; as != nil {
		switch as.Kind {
		case "Table":
			options, err := tableOptions(r)
			if err != nil {
				return nil, err
			}
			f.table = options
		case "PartialObjectMetadata":
			gvk = *as
		default:
			return nil, notAcceptable("you requested " + as.Kind + ", but the watched objects are not lists")
		}
	}
	f.key = encodingKey(c.kind, f.shape)
	if f.head = kindHead(gvk); f.protobuf {
		f.head = unknownHead(gvk)
	}
	return f, nil
}

func (f *framer) mediaType() string {
	if f.protobuf {
		return runtime.ContentTypeProtobuf + ";stream=watch"
	}
	return runtime.ContentTypeJSON
}

// event returns the frame of an event; valid until the next call, or release.
func (f *framer) event(e *store.Event) ([]byte, error) {
	d, err := f.document(e)
	if err != nil {
		return nil, err
	}
	return f.frame(string(e.Type), d), nil
}

// document is an object on its way into a frame.
type document struct {
	object []byte // JSON or a message; whole: with what a body of its own has around it
	more   []byte // of the message
	whole  bool
}

// document is the event's object; what it points to is not to be changed.
func (f *framer) document(e *store.Event) (d document, err error) {
	switch {
	case f.table != nil:
		d.whole = true
		d.object, err = f.tableBody(e)
	case e.Entry == nil:
		d.object, err = encodeShape(f.bookmark(e), f.shape)
	default:
		var revision int64
		var stored bool
		if d.object, revision, stored = asStored(f.call.kind, e.Entry, f.shape); stored {
			d.more = store.AppendRevision(nil, revision)
		} else {
			d.object, err = encodedAs(f.key, f.call.kind, e.Entry, f.shape)
		}
	}
	return d, err
}

// bookmark is an empty object of the watched kind with a revision.
func (f *framer) bookmark(e *store.Event) api.Object {
	obj := f.call.kind.New()
	obj.GetObjectKind().SetGroupVersionKind(f.call.kind.GroupVersionKind)
	obj.SetResourceVersion(strconv.FormatInt(e.Revision, 10))
	if e.InitialEventsEnd {
		obj.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
	}
	return obj
}

func (f *framer) tableBody(e *store.Event) ([]byte, error) {
	t := newTable(f.call, f.table, metav1.ListMeta{ResourceVersion: strconv.FormatInt(e.Revision, 10)})
	f.table.NoHeaders = true // only the first event carries them
	var err error
	if e.Entry == nil {
		err = t.addObject(f.call, f.bookmark(e))
	} else {
		err = t.add(f.call, f.table, e.Entry)
	}
	if err != nil {
		return nil, err
	}
	return json.Marshal(&t.Table)
}

func (f *framer) status(st *metav1.Status) (frame []byte, err error) {
	d := document{whole: true}
	if f.protobuf {
		if d.object, err = st.Marshal(); err == nil {
			d.object = inEnvelope(schema.GroupVersionKind{Version: "v1", Kind: "Status"}, d.object)
		}
	} else {
		d.object, err = json.Marshal(st)
	}
	return f.frame("ERROR", d), err
}

// frame is {"type":…,"object":…} and a newline, or a metav1.WatchEvent message after its size in
// four bytes, big endian.
func (f *framer) frame(eventType string, d document) []byte {
	if f.buf == nil {
		f.buf = frameBuffers.Get().(*[]byte)
	}
	b := (*f.buf)[:0]
	if f.protobuf {
		b = f.message(b, eventType, d)
	} else {
		b = append(append(append(b, `{"type":"`...), eventType...), `","object":`...)
		if d.whole {
			b = append(b, d.object...)
		} else {
			b = appendWithKind(b, f.head, d.object)
		}
		b = append(b, "}\n"...)
	}
	*f.buf = b
	return b
}

func (f *framer) message(b []byte, eventType string, d document) []byte {
	size := len(d.object) + len(d.more)
	body := size
	if !d.whole {
		body = len(f.head) + protowire.SizeBytes(size) + len(unknownTail)
	}
	b = append(b, 0, 0, 0, 0)
	b = protowire.AppendTag(b, 1, protowire.BytesType)
	b = protowire.AppendString(b, eventType)
	b = protowire.AppendTag(b, 2, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(protowire.SizeTag(1)+protowire.SizeBytes(body)))
	b = protowire.AppendTag(b, 1, protowire.BytesType) // of runtime.RawExtension
	b = protowire.AppendVarint(b, uint64(body))
	if d.whole {
		b = append(b, d.object...)
	} else {
		b = protowire.AppendVarint(append(b, f.head...), uint64(size))
		b = append(append(append(b, d.object...), d.more...), unknownTail...)
	}
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	return b
}

// frameBuffers are those of watches that write: one that waits has none.
var frameBuffers = sync.Pool{New: func() any { return new([]byte) }}

// release gives the buffer back.
func (f *framer) release() {
	if f.buf != nil {
		frameBuffers.Put(f.buf)
		f.buf = nil
	}
}

// sink is where frames go.
type sink interface {
	write(frame []byte) error
	flush() error
	close()
}

func newSink(w http.ResponseWriter, r *http.Request, frames *framer, gone context.CancelFunc) (sink, error) {
	if isWebSocket(r) {
		return newSocketSink(w, r, frames, gone)
	}
	w.Header().Set("Content-Type", frames.mediaType())
	w.WriteHeader(http.StatusOK)
	s := &plainSink{w: w, control: http.NewResponseController(w)}
	return s, s.control.Flush()
}

type plainSink struct {
	w       http.ResponseWriter
	control *http.ResponseController
}

func (s *plainSink) write(frame []byte) error { _, err := s.w.Write(frame); return err }
func (s *plainSink) flush() error             { return s.control.Flush() }
func (s *plainSink) close()                   {}

func isWebSocket(r *http.Request) bool {
	return strings.EqualFold(r.Header.Get("Upgrade"), "websocket") &&
		strings.Contains(strings.ToLower(r.Header.Get("Connection")), "upgrade")
}

type socketSink struct {
	conn *websocket.Conn
	kind int
}

// newSocketSink sends each frame as a message: text for JSON, binary for protobuf.
func newSocketSink(w http.ResponseWriter, r *http.Request, frames *framer, gone context.CancelFunc) (sink, error) {
	upgrader := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}
	conn, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return nil, err
	}
	s := &socketSink{conn: conn, kind: websocket.TextMessage}
	if frames.protobuf {
		s.kind = websocket.BinaryMessage
	}
	go func() {
		// Nothing is expected from the client; reading notices when it goes.
		defer gone()
		for {
			if _, _, err := conn.NextReader(); err != nil {
				return
			}
		}
	}()
	return s, nil
}

func (s *socketSink) write(frame []byte) error { return s.conn.WriteMessage(s.kind, frame) }
func (s *socketSink) flush() error             { return nil }
func (s *socketSink) close() {
	_ = s.conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(time.Second))
	_ = s.conn.Close()
}
