package gitrepo

import (
	"bytes"
	"compress/zlib"
	"crypto/sha1" //nolint:gosec // Git names objects by it
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"

	"github.com/go-git/go-git/v5/plumbing"
)

// errMissing says that an object is not in a store.
var errMissing = errors.New("object not found")

const (
	// maxObject bounds one commit, tag or tree, in bytes. The largest that are known have some megabytes.
	maxObject = 64 << 20
	// maxChain bounds how many deltas an object is made of. Git makes 50, and 4095 when it is told to.
	maxChain = 4095
	// baseCache is how many bytes of objects that deltas are made from are remembered.
	baseCache = 4 << 20
)

// pack is a Git packfile (gitformat-pack) with an index of the objects in it.
//
// It exists beside go-git's because a history is read from it whole: go-git makes a table of all offsets, an object and four readers for
// each commit, which is most of the time and memory that a history costs.
type pack struct {
	closer io.Closer

	fanout  [257]uint32 // how many ids begin with a smaller byte
	ids     []byte      // sorted, 20 bytes each
	offsets func(i int) int64

	in     window
	zlib   io.ReadCloser // made once: it is large
	bases  map[int64]content
	cached int
}

// content is an object.
type content struct {
	kind plumbing.ObjectType
	data []byte
}

// window reads a pack from any place on, and reads ahead, since the commits of a history lie side by side. It reads bytes singly, too, so
// that the decompressor takes no more than it needs.
type window struct {
	r   io.ReaderAt
	at  int64 // of the first byte of buf
	pos int   // of the next byte, in buf
	buf []byte
	mem [16 << 10]byte
}

func (w *window) seek(offset int64) {
	if d := offset - w.at; d >= 0 && d < int64(len(w.buf)) {
		w.pos = int(d)
		return
	}
	w.at, w.pos, w.buf = offset, 0, w.mem[:0]
}

func (w *window) offset() int64 { return w.at + int64(w.pos) }

func (w *window) fill() error {
	if w.pos < len(w.buf) {
		return nil
	}
	w.at, w.pos = w.offset(), 0
	n, err := w.r.ReadAt(w.mem[:], w.at)
	w.buf = w.mem[:n]
	if n > 0 {
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// ReadByte implements io.ByteReader.
func (w *window) ReadByte() (byte, error) {
	if err := w.fill(); err != nil {
		return 0, err
	}
	w.pos++
	return w.buf[w.pos-1], nil
}

// Read implements io.Reader.
func (w *window) Read(p []byte) (int, error) {
	if err := w.fill(); err != nil {
		return 0, err
	}
	n := copy(p, w.buf[w.pos:])
	w.pos += n
	return n, nil
}

// newPack makes a pack without an index.
func newPack(r io.ReaderAt) *pack {
	return &pack{in: window{r: r}, bases: map[int64]content{}}
}

// readIndex takes the index from the bytes of an .idx file.
func (p *pack) readIndex(idx []byte) error {
	const head, tail = 8 + 256*4, 2 * sha1.Size
	if len(idx) < head+tail || !bytes.HasPrefix(idx, []byte("\377tOc\000\000\000\002")) {
		return errors.New("the index of a pack is not of version 2")
	}
	for i := range 256 {
		p.fanout[i+1] = binary.BigEndian.Uint32(idx[8+4*i:])
		if p.fanout[i+1] < p.fanout[i] {
			return errors.New("the index of a pack is damaged")
		}
	}
	n := int(p.fanout[256])
	if len(idx) < head+n*28+tail {
		return errors.New("the index of a pack is cut off")
	}
	p.ids = idx[head : head+n*20]
	small := idx[head+n*24 : head+n*28]
	large := idx[head+n*28 : len(idx)-tail]
	p.offsets = func(i int) int64 {
		o := binary.BigEndian.Uint32(small[4*i:])
		if o&(1<<31) == 0 {
			return int64(o)
		}
		if at := int64(o&^(1<<31)) * 8; at+8 <= int64(len(large)) {
			return int64(binary.BigEndian.Uint64(large[at:]))
		}
		return -1
	}
	return nil
}

// find returns where an object begins.
func (p *pack) find(id plumbing.Hash) (int64, bool) {
	low, high := int(p.fanout[id[0]]), int(p.fanout[int(id[0])+1])
	i := low + sort.Search(high-low, func(i int) bool { return bytes.Compare(p.ids[(low+i)*20:(low+i+1)*20], id[:]) >= 0 })
	if i == high || !bytes.Equal(p.ids[i*20:(i+1)*20], id[:]) {
		return 0, false
	}
	return p.offsets(i), true
}

// packed is how an object stands in a pack.
type packed struct {
	kind plumbing.ObjectType
	size int64
	base int64         // of an OFSDelta
	ref  plumbing.Hash // of a REFDelta
}

// header reads what stands before an object's bytes.
func (p *pack) header(offset int64) (packed, error) {
	p.in.seek(offset)
	return readHeader(&p.in, offset)
}

// byteReader is what a pack is read from.
type byteReader interface {
	io.Reader
	io.ByteReader
}

// readHeader reads what stands before an object's bytes, at an offset in a pack.
func readHeader(in byteReader, offset int64) (packed, error) {
	b, err := in.ReadByte()
	if err != nil {
		return packed{}, err
	}
	e := packed{kind: plumbing.ObjectType(b >> 4 & 7), size: int64(b & 15)}
	for shift := 4; b&0x80 != 0; shift += 7 {
		if b, err = in.ReadByte(); err != nil {
			return e, err
		}
		if shift > 53 {
			return e, errors.New("an object's size is out of range")
		}
		e.size |= int64(b&0x7f) << shift
	}
	switch e.kind {
	case plumbing.CommitObject, plumbing.TreeObject, plumbing.BlobObject, plumbing.TagObject:
	case plumbing.OFSDeltaObject:
		var back int64
		for i := 0; ; i++ {
			if b, err = in.ReadByte(); err != nil {
				return e, err
			}
			if i > 8 {
				return e, errors.New("a delta's base is out of range")
			}
			back = back<<7 | int64(b&0x7f)
			if b&0x80 == 0 {
				break
			}
			back++
		}
		if e.base = offset - back; back <= 0 || e.base < 12 {
			return e, errors.New("a delta's base is out of range")
		}
	case plumbing.REFDeltaObject:
		_, err = io.ReadFull(in, e.ref[:])
	default:
		err = fmt.Errorf("an object is of the unknown kind %d", e.kind)
	}
	return e, err
}

// start makes the decompressor ready for the object whose header was read last.
func (p *pack) start() error {
	if p.zlib == nil {
		z, err := zlib.NewReader(&p.in)
		p.zlib = z
		return err
	}
	return p.zlib.(zlib.Resetter).Reset(&p.in, nil)
}

// bytes returns the bytes of the object whose header was read last.
func (p *pack) bytes(size int64) ([]byte, error) {
	if size > maxObject {
		return nil, fmt.Errorf("an object of %d bytes is too large", size)
	}
	if err := p.start(); err != nil {
		return nil, err
	}
	return inflate(p.zlib, size)
}

// skip passes over the bytes of the object whose header was read last.
func (p *pack) skip(size int64) error {
	if err := p.start(); err != nil {
		return err
	}
	if _, err := io.CopyN(io.Discard, p.zlib, size); err != nil {
		return err
	}
	return atEnd(p.zlib)
}

// object returns the object that begins at an offset, with its deltas applied.
func (p *pack) object(offset int64) (content, error) {
	var deltas [][]byte
	var made []int64 // the offsets of what the deltas make
	var c content
	for {
		if base, ok := p.bases[offset]; ok {
			c = base
			break
		}
		e, err := p.header(offset)
		if err != nil {
			return c, err
		}
		data, err := p.bytes(e.size)
		if err != nil {
			return c, err
		}
		if e.kind != plumbing.OFSDeltaObject && e.kind != plumbing.REFDeltaObject {
			c = content{e.kind, data}
			if len(deltas) > 0 {
				p.remember(offset, c)
			}
			break
		}
		if deltas, made = append(deltas, data), append(made, offset); len(deltas) > maxChain {
			return c, errors.New("an object is made of too many deltas")
		}
		offset = e.base
		if e.kind == plumbing.REFDeltaObject {
			at, ok := p.find(e.ref)
			if !ok {
				return c, fmt.Errorf("the base %s of a delta: %w", e.ref, errMissing)
			}
			offset = at
		}
	}
	for i := len(deltas) - 1; i >= 0; i-- {
		data, err := patch(c.data, deltas[i])
		if err != nil {
			return c, err
		}
		c.data = data
		p.remember(made[i], c)
	}
	return c, nil
}

// remember keeps an object from which others are likely to be made. When there is no more room, it forgets them all: what comes next lies
// elsewhere in the pack.
func (p *pack) remember(offset int64, c content) {
	if p.cached += len(c.data); p.cached > baseCache {
		clear(p.bases)
		p.cached = len(c.data)
	}
	p.bases[offset] = c
}

// patch applies a delta to its base (gitformat-pack, "Deltified representation").
func patch(base, delta []byte) ([]byte, error) {
	damaged := errors.New("a delta is damaged")
	from, n := binary.Uvarint(delta)
	if n <= 0 || from != uint64(len(base)) {
		return nil, damaged
	}
	delta = delta[n:]
	size, n := binary.Uvarint(delta)
	if n <= 0 || size > maxObject {
		return nil, damaged
	}
	delta = delta[n:]
	out := make([]byte, 0, min(size, 1<<16))
	for len(delta) > 0 {
		op := delta[0]
		delta = delta[1:]
		var piece []byte
		switch {
		case op == 0:
			return nil, damaged
		case op < 0x80: // the next bytes are new
			if int(op) > len(delta) {
				return nil, damaged
			}
			piece, delta = delta[:op], delta[op:]
		default: // a part of the base: 4 bytes of offset and 3 of length, those that are not 0
			var arg [7]byte
			for i := range arg {
				if op&(1<<i) == 0 {
					continue
				}
				if len(delta) == 0 {
					return nil, damaged
				}
				arg[i], delta = delta[0], delta[1:]
			}
			at := uint64(arg[0]) | uint64(arg[1])<<8 | uint64(arg[2])<<16 | uint64(arg[3])<<24
			length := uint64(arg[4]) | uint64(arg[5])<<8 | uint64(arg[6])<<16
			if length == 0 {
				length = 1 << 16
			}
			if at+length > uint64(len(base)) {
				return nil, damaged
			}
			piece = base[at : at+length]
		}
		if uint64(len(out)+len(piece)) > size {
			return nil, damaged
		}
		out = append(out, piece...)
	}
	if uint64(len(out)) != size {
		return nil, damaged
	}
	return out, nil
}

// indexed reads a pack that has no index from one end to the other and makes one, of the objects whose kinds are wanted. What a fetch
// brings is checked by that: an object is found under the sum of its bytes only, and the pack must end with its own.
func indexed(r io.ReaderAt, closer io.Closer, size int64, wanted func(plumbing.ObjectType) bool) (*pack, error) {
	p := newPack(r)
	p.closer = closer
	const head, tail = 12, sha1.Size
	var first [head]byte
	if size < head+tail {
		return nil, errors.New("the pack is cut off")
	}
	if _, err := r.ReadAt(first[:], 0); err != nil {
		return nil, err
	}
	if v := binary.BigEndian.Uint32(first[4:]); string(first[:4]) != "PACK" || v != 2 && v != 3 {
		return nil, errors.New("the server sent something else than a pack")
	}
	if err := checkSum(r, size); err != nil {
		return nil, err
	}
	type found struct {
		id plumbing.Hash
		at int64
	}
	var list []found
	index := func() {
		slices.SortFunc(list, func(a, b found) int { return bytes.Compare(a.id[:], b.id[:]) })
		p.ids = make([]byte, 0, len(list)*20)
		p.fanout = [257]uint32{}
		for _, f := range list {
			p.ids = append(p.ids, f.id[:]...)
			p.fanout[int(f.id[0])+1]++
		}
		for i := range 256 {
			p.fanout[i+1] += p.fanout[i]
		}
		p.offsets = func(i int) int64 { return list[i].at }
	}
	add := func(c content, at int64) {
		h := plumbing.NewHasher(c.kind, int64(len(c.data)))
		_, _ = h.Write(c.data)
		list = append(list, found{h.Sum(), at})
	}
	// The kind of a delta is that of its base. What is not wanted is passed over: its bytes are read to know where they end.
	kinds := map[int64]plumbing.ObjectType{}
	var ofs, refs []int64
	at := int64(head)
	for range binary.BigEndian.Uint32(first[8:]) {
		e, err := p.header(at)
		if err != nil {
			return nil, fmt.Errorf("reading an object at byte %d of the pack: %w", at, err)
		}
		kind := e.kind
		switch kind {
		case plumbing.REFDeltaObject:
			refs = append(refs, at)
		case plumbing.OFSDeltaObject:
			if kind = kinds[e.base]; kind == 0 || wanted(kind) {
				ofs = append(ofs, at) // 0: its base is a delta by id
			}
		}
		if whole := kind == e.kind && kind != plumbing.REFDeltaObject; whole && wanted(kind) {
			data, err := p.bytes(e.size)
			if err != nil {
				return nil, fmt.Errorf("reading an object at byte %d of the pack: %w", at, err)
			}
			add(content{kind, data}, at)
		} else if err := p.skip(e.size); err != nil {
			return nil, fmt.Errorf("reading an object at byte %d of the pack: %w", at, err)
		}
		if kind != plumbing.REFDeltaObject {
			kinds[at] = kind
		}
		at = p.in.offset()
		if at > size-tail {
			return nil, errors.New("the pack is cut off")
		}
	}
	if at != size-tail {
		return nil, errors.New("the pack goes on after its last object")
	}
	// Deltas come last: the base of one that names its base by id may stand anywhere.
	index()
	for todo := slices.Concat(ofs, refs); len(todo) > 0; {
		var left []int64
		for _, at := range todo {
			c, err := p.object(at)
			switch {
			case errors.Is(err, errMissing):
				left = append(left, at)
			case err != nil:
				return nil, fmt.Errorf("reading a delta at byte %d of the pack: %w", at, err)
			case wanted(c.kind):
				add(c, at)
			}
		}
		index()
		if len(left) == len(todo) { // deltas of what is not wanted, or of nothing
			break
		}
		todo = left
	}
	return p, nil
}

// checkSum reports whether a pack ends with the sum of all before.
func checkSum(r io.ReaderAt, size int64) error {
	h := sha1.New() //nolint:gosec // Git ends packs with it
	if _, err := io.Copy(h, io.NewSectionReader(r, 0, size-sha1.Size)); err != nil {
		return err
	}
	var want [sha1.Size]byte
	if _, err := r.ReadAt(want[:], size-sha1.Size); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if !bytes.Equal(h.Sum(nil), want[:]) {
		return errors.New("the pack was damaged on its way: its sum is another")
	}
	return nil
}
