package gitrepo

import (
	"bytes"
	"compress/zlib"
	"crypto/sha1" //nolint:gosec // Git ends packs with it
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/storage/memory"
)

// packObjects makes a pack of objects that the storage has, each as a whole: what a change consists of is small, and looking for deltas would
// take longer than sending it.
func packObjects(s *memory.Storage, ids []plumbing.Hash) ([]byte, error) {
	parts := make([][]byte, len(ids))
	err := onAllProcessors(len(ids), func(numbers iter.Seq[int]) error {
		z, err := zlib.NewWriterLevel(nil, zlib.BestSpeed) // one for many objects: it is large. What the better levels gain is a few percent
		if err != nil {
			return err
		}
		for i := range numbers {
			if parts[i], err = packObject(s, ids[i], z); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	pack := binary.BigEndian.AppendUint32([]byte("PACK\x00\x00\x00\x02"), uint32(len(ids))) //nolint:gosec // bounded by MaxEntries
	for _, part := range parts {
		pack = append(pack, part...)
	}
	sum := sha1.Sum(pack) //nolint:gosec // as above
	return append(pack, sum[:]...), nil
}

// packObject is an object as it stands in a pack (gitformat-pack): its kind and size, and its compressed bytes.
func packObject(s *memory.Storage, id plumbing.Hash, z *zlib.Writer) ([]byte, error) {
	o, err := s.EncodedObject(plumbing.AnyObject, id)
	if err != nil {
		return nil, fmt.Errorf("reading object %s: %w", id, err)
	}
	data, err := bytesOf(o)
	if err != nil {
		return nil, fmt.Errorf("reading object %s: %w", id, err)
	}
	var out bytes.Buffer
	size := uint64(len(data))
	first := byte(o.Type())<<4 | byte(size&15)
	if size >>= 4; size > 0 {
		first |= 0x80
	}
	out.WriteByte(first)
	if size > 0 {
		out.Write(binary.AppendUvarint(nil, size))
	}
	z.Reset(&out)
	if _, err := z.Write(data); err != nil {
		return nil, fmt.Errorf("compressing object %s: %w", id, err)
	}
	if err := z.Close(); err != nil {
		return nil, fmt.Errorf("compressing object %s: %w", id, err)
	}
	return out.Bytes(), nil
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
