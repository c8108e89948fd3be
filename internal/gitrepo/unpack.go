package gitrepo

import (
	"bytes"
	"compress/zlib"
	"crypto/sha1" //nolint:gosec // Git ends packs with it
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"iter"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/storage/memory"
)

// maxUnpacked bounds the objects of one pack together, in bytes: a pack of a megabyte can unfold to a thousand.
const maxUnpacked = 2 << 30

// stored is an object in memory. Beside plumbing.MemoryObject it exists to take over bytes that are there, without copying them.
type stored struct {
	id   plumbing.Hash
	kind plumbing.ObjectType
	data []byte
}

func newStored(kind plumbing.ObjectType, data []byte) *stored {
	h := plumbing.NewHasher(kind, int64(len(data)))
	_, _ = h.Write(data)
	return &stored{h.Sum(), kind, data}
}

// Hash implements plumbing.EncodedObject.
func (o *stored) Hash() plumbing.Hash { return o.id }

// Type implements plumbing.EncodedObject.
func (o *stored) Type() plumbing.ObjectType { return o.kind }

// SetType implements plumbing.EncodedObject; an object that has an id does not change.
func (o *stored) SetType(plumbing.ObjectType) {}

// Size implements plumbing.EncodedObject.
func (o *stored) Size() int64 { return int64(len(o.data)) }

// SetSize implements plumbing.EncodedObject; an object that has an id does not change.
func (o *stored) SetSize(int64) {}

// Reader implements plumbing.EncodedObject.
func (o *stored) Reader() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(o.data)), nil }

// Writer implements plumbing.EncodedObject.
func (o *stored) Writer() (io.WriteCloser, error) {
	return nil, errors.New("an object that has an id does not change")
}

// arrival reads a pack as it comes, sums it up, and gives single bytes, so that the decompressor takes no more than it needs.
type arrival struct {
	r      io.Reader
	sum    hash.Hash
	mem    [64 << 10]byte
	buf    []byte
	pos    int   // of the next byte, in buf
	before int64 // bytes that were in buf earlier
}

func (a *arrival) offset() int64 { return a.before + int64(a.pos) }

func (a *arrival) fill() error {
	if a.pos < len(a.buf) {
		return nil
	}
	_, _ = a.sum.Write(a.buf)
	a.before, a.pos, a.buf = a.before+int64(len(a.buf)), 0, a.mem[:0]
	for {
		n, err := a.r.Read(a.mem[:])
		if a.buf = a.mem[:n]; n > 0 {
			return nil
		}
		if errors.Is(err, io.EOF) {
			return io.ErrUnexpectedEOF // a pack says itself where it ends
		}
		if err != nil {
			return err
		}
	}
}

// ReadByte implements io.ByteReader.
func (a *arrival) ReadByte() (byte, error) {
	if err := a.fill(); err != nil {
		return 0, err
	}
	a.pos++
	return a.buf[a.pos-1], nil
}

// Read implements io.Reader.
func (a *arrival) Read(p []byte) (int, error) {
	if err := a.fill(); err != nil {
		return 0, err
	}
	n := copy(p, a.buf[a.pos:])
	a.pos += n
	return n, nil
}

// end compares the sum at the end of the pack with that of all before.
func (a *arrival) end() error {
	_, _ = a.sum.Write(a.buf[:a.pos])
	want := a.sum.Sum(nil)
	a.buf = a.buf[a.pos:]
	a.before, a.pos = a.before+int64(a.pos), 0
	var there [sha1.Size]byte
	if _, err := io.ReadFull(a, there[:]); err != nil {
		return fmt.Errorf("reading the sum of the pack: %w", err)
	}
	if !bytes.Equal(want, there[:]) {
		return errors.New("the pack was damaged on its way: its sum is another")
	}
	return nil
}

// delta is an object that is made from another one.
type delta struct {
	at   int64 // offset in the pack
	data []byte
	made atomic.Bool
}

// unpacking stores the objects of one pack. The bytes of a pack have to be decompressed one after the other, since only that tells where an
// object ends; the sums that are the objects' ids, and what deltas make, are computed beside that, on all processors.
type unpacking struct {
	mu      sync.Mutex
	storage *memory.Storage
	at      map[int64]*stored // by offset in the pack
	left    []int64           // offsets of files that are larger than maxObject, which nobody can read anyway
	total   atomic.Int64      // bytes of all objects

	// What is to be made of other objects: of those at an offset, and of those with an id.
	from   map[int64][]*delta
	fromID map[plumbing.Hash][]*delta
}

// unpack reads a pack and stores its objects. A delta may be of an object that the storage has already. The pack's sum is compared; what is
// stored from a pack that turns out to be damaged is stored under its own id, and nothing names it.
func unpack(r io.Reader, s *memory.Storage) error {
	u := &unpacking{storage: s, at: map[int64]*stored{}, from: map[int64][]*delta{}, fromID: map[plumbing.Hash][]*delta{}}
	type whole struct {
		at int64
		content
	}
	var workers sync.WaitGroup
	work := make(chan whole, 256)
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for w := range work {
				u.store(w.at, newStored(w.kind, w.data))
			}
		})
	}
	err := u.read(&arrival{r: r, sum: sha1.New()}, func(at int64, c content) { work <- whole{at, c} }) //nolint:gosec // as above
	close(work)
	workers.Wait()
	if err != nil {
		return err
	}
	return u.makeDeltas()
}

// read passes the whole objects of a pack to the function, and keeps its deltas.
func (u *unpacking) read(in *arrival, whole func(at int64, c content)) error {
	var head [12]byte
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return fmt.Errorf("reading the pack: %w", err)
	}
	if v := binary.BigEndian.Uint32(head[4:]); string(head[:4]) != "PACK" || v != 2 && v != 3 {
		return errors.New("the server sent something else than a pack")
	}
	var inflater io.ReadCloser // made once: it is large
	for range binary.BigEndian.Uint32(head[8:]) {
		at := in.offset()
		e, err := readHeader(in, at)
		if err != nil {
			return fmt.Errorf("reading an object at byte %d of the pack: %w", at, err)
		}
		if inflater == nil {
			inflater, err = zlib.NewReader(in)
		} else {
			err = inflater.(zlib.Resetter).Reset(in, nil)
		}
		if err == nil && e.size > maxObject && e.kind != plumbing.CommitObject && e.kind != plumbing.TreeObject {
			if _, err = io.Copy(io.Discard, inflater); err == nil {
				u.left = append(u.left, at)
				continue
			}
		}
		if err == nil {
			err = u.count(e.size)
		}
		var data []byte
		if err == nil {
			data, err = inflate(inflater, e.size)
		}
		if err != nil {
			return fmt.Errorf("reading an object at byte %d of the pack: %w", at, err)
		}
		switch e.kind {
		case plumbing.OFSDeltaObject:
			u.from[e.base] = append(u.from[e.base], &delta{at: at, data: data})
		case plumbing.REFDeltaObject:
			u.fromID[e.ref] = append(u.fromID[e.ref], &delta{at: at, data: data})
		default:
			whole(at, content{e.kind, data})
		}
	}
	return in.end()
}

// count bounds what is kept in memory.
func (u *unpacking) count(size int64) error {
	if size > maxObject {
		return fmt.Errorf("an object of %d bytes is too large", size)
	}
	if u.total.Add(size) > maxUnpacked {
		return errPackTooLarge
	}
	return nil
}

// inflate reads an object to its end, and makes sure that it is no longer than it claims. The decompressor compares its checksum on the way.
func inflate(r io.Reader, size int64) ([]byte, error) {
	const believed = 1 << 20 // a claim up to here is taken at its word; what is larger has to come first
	data := make([]byte, min(size, believed))
	for read := 0; ; {
		n, err := io.ReadFull(r, data[read:])
		if read += n; err != nil {
			return nil, err
		}
		if int64(read) == size {
			break
		}
		data = append(data, make([]byte, min(size-int64(read), int64(read)))...)
	}
	return data, atEnd(r)
}

// atEnd makes sure that an object is no longer than it claims.
func atEnd(r io.Reader) error {
	var more [1]byte
	switch n, err := r.Read(more[:]); {
	case n > 0:
		return errors.New("an object is longer than it claims")
	case errors.Is(err, io.EOF):
		return nil
	default:
		return err
	}
}

func (u *unpacking) store(at int64, o *stored) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.at[at] = o
	_, _ = u.storage.SetEncodedObject(o) // fails for kinds only that no pack has
}

// makeDeltas makes the objects that are deltas, each family by one worker. What is made of a file that was left out is left out as well.
func (u *unpacking) makeDeltas() error {
	for len(u.left) > 0 {
		at := u.left[0]
		u.left = u.left[1:]
		for _, d := range u.from[at] {
			d.made.Store(true)
			u.left = append(u.left, d.at)
		}
	}
	var families []*family
	for at, list := range u.from {
		if base := u.at[at]; base != nil {
			families = append(families, &family{base, list})
		}
	}
	for id, list := range u.fromID {
		if o, err := u.storage.EncodedObject(plumbing.AnyObject, id); err == nil {
			base, err := bytesOf(o)
			if err != nil {
				return fmt.Errorf("reading the base %s of a delta: %w", id, err)
			}
			families = append(families, &family{&stored{id, o.Type(), base}, list})
		}
	}
	err := onAllProcessors(len(families), func(numbers iter.Seq[int]) error {
		for i := range numbers {
			if err := u.makeFamily(families[i]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return u.missing()
}

// onAllProcessors runs work on each processor. Together they are given the numbers below n, each number once.
func onAllProcessors(n int, work func(numbers iter.Seq[int]) error) error {
	var (
		workers sync.WaitGroup
		next    atomic.Int64
		errs    = make([]error, runtime.GOMAXPROCS(0))
	)
	numbers := func(yield func(int) bool) {
		for i := int(next.Add(1)) - 1; i < n && yield(i); i = int(next.Add(1)) - 1 {
		}
	}
	for w := range errs {
		workers.Go(func() { errs[w] = work(numbers) })
	}
	workers.Wait()
	return errors.Join(errs...)
}

// family is an object and the deltas that are made of it.
type family struct {
	base   *stored
	deltas []*delta
}

// makeFamily makes what is made of an object, and what is made of that.
func (u *unpacking) makeFamily(f *family) error {
	for todo := []*family{f}; len(todo) > 0; {
		f := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for _, d := range f.deltas {
			if d.made.Swap(true) { // an object that the pack holds twice
				continue
			}
			data, err := patch(f.base.data, d.data)
			if err == nil {
				err = u.count(int64(len(data)))
			}
			if err != nil {
				return fmt.Errorf("reading a delta at byte %d of the pack: %w", d.at, err)
			}
			o := newStored(f.base.kind, data)
			u.store(d.at, o)
			for _, list := range [][]*delta{u.from[d.at], u.fromID[o.id]} {
				if len(list) > 0 {
					todo = append(todo, &family{o, list})
				}
			}
		}
	}
	return nil
}

// missing reports a delta whose base neither the pack nor the storage has.
func (u *unpacking) missing() error {
	for base, list := range u.from {
		for _, d := range list {
			if !d.made.Load() {
				return fmt.Errorf("the base of a delta, at byte %d of the pack: %w", base, errMissing)
			}
		}
	}
	for id, list := range u.fromID {
		for _, d := range list {
			if !d.made.Load() {
				return fmt.Errorf("the base %s of a delta: %w", id, errMissing)
			}
		}
	}
	return nil
}

// bytesOf is the content of an object. It must not be modified.
func bytesOf(o plumbing.EncodedObject) ([]byte, error) {
	if s, ok := o.(*stored); ok {
		return s.data, nil
	}
	r, err := o.Reader()
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }()
	data := make([]byte, o.Size())
	_, err = io.ReadFull(r, data)
	return data, err
}
