package gitrepo

import (
	"bytes"
	"cmp"
	"compress/zlib"
	"crypto/sha1" //nolint:gosec // Git ends packs with it
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"strconv"
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

// newStored makes an object with the id that Git gives it. The hasher is made once for many.
func newStored(h plumbing.Hasher, kind plumbing.ObjectType, data []byte) *stored {
	o := &stored{kind: kind, data: data}
	h.Reset()
	var head [32]byte
	_, _ = h.Write(append(strconv.AppendInt(append(append(head[:0], kind.Bytes()...), ' '), int64(len(data)), 10), 0))
	_, _ = h.Write(data)
	h.Hash.Sum(o.id[:0])
	return o
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

// fill reads more when all of the last is used.
func (a *arrival) fill() error {
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
	if a.pos == len(a.buf) {
		if err := a.fill(); err != nil {
			return 0, err
		}
	}
	b := a.buf[a.pos]
	a.pos++
	return b, nil
}

// Read implements io.Reader.
func (a *arrival) Read(p []byte) (int, error) {
	if a.pos == len(a.buf) {
		if err := a.fill(); err != nil {
			return 0, err
		}
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

// arrived is an object as it came in a pack: whole, or a delta.
type arrived struct {
	at int64 // offset in the pack
	packed
	data []byte
	left bool // it is larger than maxObject and was not kept; nobody can read such a file anyway
}

// unpacking stores the objects of one pack. The bytes of a pack have to be decompressed one after the other, since only that tells where an
// object ends. Beside that, one worker makes of them what they stand for, in the same order: their ids, and what the deltas make.
type unpacking struct {
	storage *memory.Storage
	hasher  plumbing.Hasher
	total   atomic.Int64 // bytes of all objects

	at   []int64   // offsets of the objects so far, ascending
	made []*stored // what they are; nil for those that are not made yet, and for those that were left out

	// Deltas that wait for their base, by its number or by its id. Those of an object that was left out wait until the end.
	from   map[int][]int
	fromID map[plumbing.Hash][]int
	deltas map[int][]byte
}

// unpack reads a pack and stores its objects. A delta may be of an object that the storage has already. The pack's sum is compared; what is
// stored from a pack that turns out to be damaged is stored under its own id, and nothing names it.
func unpack(r io.Reader, s *memory.Storage) error {
	u := &unpacking{
		storage: s, hasher: plumbing.NewHasher(plumbing.BlobObject, 0),
		from: map[int][]int{}, fromID: map[plumbing.Hash][]int{}, deltas: map[int][]byte{},
	}
	var (
		worker sync.WaitGroup
		work   = make(chan []arrived, 8)
		failed = make(chan struct{})
		fault  error
	)
	worker.Go(func() {
		defer close(failed)
		for batch := range work {
			for _, a := range batch {
				if fault = u.take(a); fault != nil {
					return
				}
			}
		}
	})
	err := u.read(&arrival{r: r, sum: sha1.New()}, func(batch []arrived) error { //nolint:gosec // as above
		select {
		case work <- batch:
			return nil
		case <-failed:
			return fault
		}
	})
	close(work)
	worker.Wait()
	if err := cmp.Or(fault, err); err != nil {
		return err
	}
	return u.missing()
}

// read passes the objects of a pack to the function, some at a time.
func (u *unpacking) read(in *arrival, pass func([]arrived) error) error {
	var head [12]byte
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return fmt.Errorf("reading the pack: %w", err)
	}
	if v := binary.BigEndian.Uint32(head[4:]); string(head[:4]) != "PACK" || v != 2 && v != 3 {
		return errors.New("the server sent something else than a pack")
	}
	const (
		most   = 128 // objects at a time, so that the worker is seldom woken
		enough = 256 << 10
	)
	var (
		inflater io.ReadCloser // made once: it is large
		batch    []arrived
		size     int64
	)
	for range binary.BigEndian.Uint32(head[8:]) {
		a, err := u.next(in, &inflater)
		if err != nil {
			return fmt.Errorf("reading an object at byte %d of the pack: %w", a.at, err)
		}
		batch, size = append(batch, a), size+int64(len(a.data))
		if len(batch) == most || size > enough {
			if err := pass(batch); err != nil {
				return err
			}
			batch, size = make([]arrived, 0, most), 0
		}
	}
	if err := pass(batch); err != nil {
		return err
	}
	return in.end()
}

// next reads one object.
func (u *unpacking) next(in *arrival, inflater *io.ReadCloser) (a arrived, err error) {
	a.at = in.offset()
	if a.packed, err = readHeader(in, a.at); err != nil {
		return a, err
	}
	if *inflater == nil {
		*inflater, err = zlib.NewReader(in)
	} else {
		err = (*inflater).(zlib.Resetter).Reset(in, nil)
	}
	if err != nil {
		return a, err
	}
	if a.size > maxObject && a.kind != plumbing.CommitObject && a.kind != plumbing.TreeObject {
		a.left = true
		_, err = io.Copy(io.Discard, *inflater)
		return a, err
	}
	if err = u.count(a.size); err == nil {
		a.data, err = inflate(*inflater, a.size)
	}
	return a, err
}

// take stores an object, or what is made of it, if that can be made already.
func (u *unpacking) take(a arrived) error {
	n := len(u.at)
	u.at, u.made = append(u.at, a.at), append(u.made, nil)
	var base *stored
	switch {
	case a.left:
		return nil
	case a.kind == plumbing.OFSDeltaObject:
		i, found := slices.BinarySearch(u.at, a.base)
		if !found {
			return fmt.Errorf("the base of a delta, at byte %d of the pack: %w", a.base, errMissing)
		}
		if base = u.made[i]; base == nil {
			u.from[i], u.deltas[n] = append(u.from[i], n), a.data
			return nil
		}
	case a.kind == plumbing.REFDeltaObject:
		var err error
		if base, err = u.base(a.ref); err != nil {
			return err
		}
		if base == nil {
			u.fromID[a.ref], u.deltas[n] = append(u.fromID[a.ref], n), a.data
			return nil
		}
	default:
		return u.store(n, newStored(u.hasher, a.kind, a.data))
	}
	o, err := u.make(n, base, a.data)
	if err != nil {
		return err
	}
	return u.store(n, o)
}

// base is an object of the storage, nil when it is not there.
func (u *unpacking) base(id plumbing.Hash) (*stored, error) {
	o, err := u.storage.EncodedObject(plumbing.AnyObject, id)
	if err != nil {
		return nil, nil //nolint:nilerr // a storage in memory has no other errors than that
	}
	if s, ok := o.(*stored); ok {
		return s, nil
	}
	data, err := bytesOf(o)
	if err != nil {
		return nil, fmt.Errorf("reading the base %s of a delta: %w", id, err)
	}
	return &stored{id, o.Type(), data}, nil
}

// make makes an object of a delta.
func (u *unpacking) make(n int, base *stored, delta []byte) (*stored, error) {
	data, err := patch(base.data, delta)
	if err == nil {
		err = u.count(int64(len(data)))
	}
	if err != nil {
		return nil, fmt.Errorf("reading a delta at byte %d of the pack: %w", u.at[n], err)
	}
	return newStored(u.hasher, base.kind, data), nil
}

// store keeps an object, and makes what waited for it, and for that.
func (u *unpacking) store(n int, o *stored) error {
	u.made[n] = o
	if _, err := u.storage.SetEncodedObject(o); err != nil || len(u.deltas) == 0 {
		return err
	}
	for todo := []int{n}; len(todo) > 0; {
		base := todo[len(todo)-1]
		o := u.made[base]
		todo = todo[:len(todo)-1]
		waited := slices.Concat(u.from[base], u.fromID[o.id])
		delete(u.from, base)
		delete(u.fromID, o.id)
		for _, d := range waited {
			made, err := u.make(d, o, u.deltas[d])
			if err != nil {
				return err
			}
			delete(u.deltas, d)
			u.made[d] = made
			if _, err := u.storage.SetEncodedObject(made); err != nil {
				return err
			}
		}
		todo = append(todo, waited...)
	}
	return nil
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

// missing reports a delta whose base neither the pack nor the storage has.
func (u *unpacking) missing() error {
	for id := range u.fromID {
		return fmt.Errorf("the base %s of a delta: %w", id, errMissing)
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
