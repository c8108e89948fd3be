package gitclaim

import (
	"bufio"
	"bytes"
	"compress/zlib"
	"context"
	"crypto/sha1" //nolint:gosec // Git's name for an object; what counts is compared by its content
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	zero       = "0000000000000000000000000000000000000000"
	refsLimit  = 256 << 20 // bytes of the list of refs
	replyLimit = 1 << 20   // bytes of other answers
	blobLimit  = 4 << 10   // bytes of a claim
)

type session struct {
	repository Repository
	base       *url.URL // where the repository is: a redirect of the first request changes it
	client     *http.Client
}

// object is the name of a blob.
func object(blob []byte) string {
	h := sha1.New() //nolint:gosec // see the import
	fmt.Fprintf(h, "blob %d\x00", len(blob))
	h.Write(blob)
	return hex.EncodeToString(h.Sum(nil))
}

// look returns what a ref is on; "" when it does not exist.
func (s *session) look(ctx context.Context, ref string) (string, error) {
	resp, err := s.send(ctx, http.MethodGet, "/info/refs?service=git-receive-pack", "", nil)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	at, err := findRef(bufio.NewReader(io.LimitReader(resp.Body, refsLimit)), ref)
	if err != nil {
		return "", fmt.Errorf("reading the refs of %s: %w", s.repository.URL, err)
	}
	landed := *resp.Request.URL
	landed.Path, landed.RawQuery = strings.TrimSuffix(landed.Path, "/info/refs"), ""
	s.base = &landed
	return at, nil
}

// findRef reads the advertisement of receive-pack (gitprotocol-pack, "Reference Discovery") to its end, since half a list proves nothing.
func findRef(r *bufio.Reader, ref string) (at string, err error) {
	service, _, err := line(r)
	if err != nil {
		return "", err
	}
	if strings.TrimSpace(string(service)) != "# service=git-receive-pack" {
		return "", errors.New("the answer is not a Git server's")
	}
	if _, flush, err := line(r); err != nil || !flush {
		return "", errors.New("the answer is not a Git server's")
	}
	for first := true; ; first = false {
		l, flush, err := line(r)
		if err != nil {
			return "", err
		}
		if flush {
			return at, nil
		}
		text, capabilities, _ := strings.Cut(strings.TrimSuffix(string(l), "\n"), "\x00")
		if first {
			for word := range strings.FieldsSeq(capabilities) {
				if format, ok := strings.CutPrefix(word, "object-format="); ok && format != "sha1" {
					return "", fmt.Errorf("its objects have %.20s names, which this step cannot write", format)
				}
			}
		}
		if id, name, _ := strings.Cut(text, " "); name == ref {
			at = id
		}
	}
}

// create asks the server to make a ref that does not exist, on a blob.
func (s *session) create(ctx context.Context, ref string, blob []byte) error {
	var body bytes.Buffer
	body.WriteString(packet(zero + " " + object(blob) + " " + ref + "\x00 report-status agent=cloudbuild-steps"))
	body.WriteString("0000")
	body.Write(pack(blob))
	resp, err := s.send(ctx, http.MethodPost, "/git-receive-pack", "application/x-git-receive-pack-", body.Bytes())
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if err := judge(bufio.NewReader(io.LimitReader(resp.Body, replyLimit)), ref); err != nil {
		return fmt.Errorf("creating %s in %s: %w", ref, s.repository.URL, err)
	}
	return nil
}

// judge reads the report of receive-pack ("Report Status").
func judge(r *bufio.Reader, ref string) error {
	for {
		l, flush, err := line(r)
		if err != nil || flush {
			return errNoReport // what became of it shows when we look again
		}
		text := strings.TrimSpace(string(l))
		switch word, rest, _ := strings.Cut(text, " "); {
		case word == "unpack" && rest != "ok":
			return &RefusedError{Reason: "unpacking failed: " + rest}
		case word == "ok" && rest == ref:
			return nil
		case word == "ng":
			_, reason, _ := strings.Cut(rest, " ")
			return &RefusedError{Reason: reason, clash: clashes(reason)}
		}
	}
}

// clashes reports whether a refusal is what servers say when another writer was quicker; looking again tells.
func clashes(reason string) bool {
	for _, s := range []string{"failed to update ref", "lock", "incorrect old value", "already exists", "fetch first", "stale info"} {
		if strings.Contains(reason, s) {
			return true
		}
	}
	return false
}

// read brings the content of a blob that a ref is on.
func (s *session) read(ctx context.Context, id string) ([]byte, error) {
	body := packet("want "+id+" agent=cloudbuild-steps\n") + "0000" + packet("done\n")
	resp, err := s.send(ctx, http.MethodPost, "/git-upload-pack", "application/x-git-upload-pack-", []byte(body))
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	r := bufio.NewReader(io.LimitReader(resp.Body, replyLimit))
	if l, _, err := line(r); err != nil || strings.TrimSpace(string(l)) != "NAK" {
		return nil, errors.New("the server does not give it")
	}
	blob, err := unpack(r)
	if err == nil && object(blob) != id {
		err = errors.New("the server gives something else")
	}
	return blob, err
}

// send makes one request. The result has status 200.
func (s *session) send(ctx context.Context, method, path, kind string, body []byte) (*http.Response, error) {
	action := "reading from"
	if body != nil {
		action = "pushing to"
	}
	doing := action + " " + s.repository.URL
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(s.base.String(), "/")+path, bytes.NewReader(body))
	if err != nil {
		return nil, errors.New("the config repo's URL cannot be read")
	}
	if kind != "" {
		req.Header.Set("Content-Type", kind+"request")
		req.Header.Set("Accept", kind+"result")
	}
	req.Header.Set("User-Agent", "git/cloudbuild-steps") // some hosts answer with a web page to others
	token := s.repository.Token
	if s.repository.Renew != nil {
		if token, err = s.repository.Renew(ctx, s.repository.URL); err != nil {
			return nil, fmt.Errorf("%s: %w", doing, &credentialError{err})
		}
	}
	if !token.IsZero() {
		req.SetBasicAuth(s.repository.Username, token.Reveal())
	}
	resp, err := s.client.Do(req)
	if err != nil {
		if outer, ok := errors.AsType[*url.Error](err); ok { // its text holds the URL that a redirect named
			err = outer.Err
		}
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	_ = resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound:
		return nil, &AccessError{URL: s.repository.URL, Status: resp.StatusCode, Anonymous: token.IsZero(), App: s.repository.Renew != nil}
	}
	wait, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
	return nil, &statusError{doing, resp.StatusCode, time.Duration(max(0, min(wait, 24*60*60))) * time.Second}
}

// line reads one pkt-line (gitprotocol-common); flush says that it was a flush-pkt.
func line(r *bufio.Reader) (text []byte, flush bool, err error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, false, io.ErrUnexpectedEOF
	}
	n, err := strconv.ParseUint(string(head[:]), 16, 16)
	switch {
	case err != nil || n > 0 && n < 4:
		return nil, false, errors.New("the answer is not a Git server's")
	case n == 0:
		return nil, true, nil
	}
	text = make([]byte, n-4)
	if _, err := io.ReadFull(r, text); err != nil {
		return nil, false, io.ErrUnexpectedEOF
	}
	return text, false, nil
}

func packet(text string) string { return fmt.Sprintf("%04x%s", len(text)+4, text) }

const blobType = 3

// pack makes a pack of one blob (gitformat-pack).
func pack(blob []byte) []byte {
	var b bytes.Buffer
	b.WriteString("PACK")
	_ = binary.Write(&b, binary.BigEndian, []uint32{2, 1})
	size := len(blob)
	head := byte(blobType<<4 | size&15)
	for size >>= 4; size > 0; size >>= 7 {
		b.WriteByte(head | 0x80)
		head = byte(size & 0x7f)
	}
	b.WriteByte(head)
	z := zlib.NewWriter(&b)
	_, _ = z.Write(blob)
	_ = z.Close()
	sum := sha1.Sum(b.Bytes()) //nolint:gosec // see the import
	return append(b.Bytes(), sum[:]...)
}

// unpack reads a pack of one blob.
func unpack(r *bufio.Reader) ([]byte, error) {
	var head [12]byte
	if _, err := io.ReadFull(r, head[:]); err != nil || string(head[:4]) != "PACK" || binary.BigEndian.Uint32(head[8:]) != 1 {
		return nil, errors.New("the server's pack does not hold one object")
	}
	b, err := r.ReadByte()
	if err != nil || b>>4&7 != blobType {
		return nil, errors.New("the server's pack does not hold a blob")
	}
	for b&0x80 != 0 { // the size, which the content shows as well
		if b, err = r.ReadByte(); err != nil {
			return nil, io.ErrUnexpectedEOF
		}
	}
	z, err := zlib.NewReader(r)
	if err != nil {
		return nil, fmt.Errorf("unpacking: %w", err)
	}
	blob, err := io.ReadAll(io.LimitReader(z, blobLimit+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("unpacking: %w", err)
	case len(blob) > blobLimit:
		return nil, errors.New("it is too large for a claim")
	}
	return blob, nil
}
