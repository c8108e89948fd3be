package registry

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestATagIsWrittenOnceAndKeptAfterwards(t *testing.T) {
	repository := folder(t)
	image := seed(t, repository)
	for _, want := range []State{Created, Kept, Kept} {
		f := between(t, func(w http.ResponseWriter, _ *http.Request, pass func(http.ResponseWriter)) { pass(w) })
		got, err := client().Tag(t.Context(), f.host+"/"+repository, "v1.0.0", image)
		if err != nil || got != want {
			t.Fatalf("%s, %v, want %s", got, err, want)
		}
		if n := len(f.log); want == Created && n != 4 || want == Kept && n != 2 { // the tag and its tombstone, and for a new one the write and the look after it
			t.Errorf("%s with the requests %v", want, f.log)
		}
	}
	if got := digestUnder(t, repository, "v1.0.0"); got != image.Digest {
		t.Errorf("the tag is on %s, want %s", got, image.Digest)
	}
}

func TestATagNeverMoves(t *testing.T) {
	repository := folder(t)
	first, second := seed(t, repository, "v1.0.0"), seed(t, repository)
	_, err := client().Tag(t.Context(), realHost(t)+"/"+repository, "v1.0.0", second)
	taken, ok := errors.AsType[*TagTakenError](err)
	if !ok || taken.Have != first.Digest || taken.Want != second.Digest {
		t.Fatalf("error %v", err)
	}
	if !strings.Contains(err.Error(), first.Digest) || !strings.Contains(err.Error(), second.Digest) {
		t.Errorf("%q does not name both digests", err)
	}
	if got := digestUnder(t, repository, "v1.0.0"); got != first.Digest {
		t.Errorf("the tag is on %s now, and was on %s", got, first.Digest)
	}
}

// drop lets the registry do its work and loses what it answers.
func drop(pass func(http.ResponseWriter)) {
	pass(httptest.NewRecorder())
	panic(http.ErrAbortHandler)
}

func TestWhenWritingATagFails(t *testing.T) {
	type world struct {
		writes       int // PUTs of the tag so far, this one included
		reads        int // GETs of the tag so far, this one included
		image, rival Image
		putRival     func() // another writer
	}
	const tag = "v1.0.0"
	for name, c := range map[string]struct {
		put    func(w http.ResponseWriter, s *world, pass func(http.ResponseWriter)) // nil: the registry does it
		get    func(w http.ResponseWriter, s *world, pass func(http.ResponseWriter))
		state  State
		err    any    // pointer to the type of the error
		text   string // in the error
		under  string // whose digest the tag is on in the end: image, rival, or nothing
		writes int    // PUTs at the end
	}{
		"the answer is lost, and the tag is there": {
			put:   func(_ http.ResponseWriter, _ *world, pass func(http.ResponseWriter)) { drop(pass) },
			state: Created, under: "image", writes: 1,
		},
		"the request is lost, and the tag is written again": {
			put: func(w http.ResponseWriter, s *world, pass func(http.ResponseWriter)) {
				if s.writes == 1 {
					panic(http.ErrAbortHandler)
				}
				pass(w)
			},
			state: Created, under: "image", writes: 2,
		},
		"the registry is overloaded, and the tag is written again": {
			put: func(w http.ResponseWriter, s *world, pass func(http.ResponseWriter)) {
				if s.writes < 3 {
					refuse(w, 429, "TOOMANYREQUESTS", "quota")
					return
				}
				pass(w)
			},
			state: Created, under: "image", writes: 3,
		},
		"the registry stays broken": {
			put: func(w http.ResponseWriter, _ *world, _ func(http.ResponseWriter)) { refuse(w, 500, "UNKNOWN", "oops") },
			err: new(*Error), text: "500 UNKNOWN: oops", writes: attempts,
		},
		"writing is not allowed": {
			put: func(w http.ResponseWriter, _ *world, _ func(http.ResponseWriter)) { refuse(w, 403, "DENIED", "denied") },
			err: new(*Error), text: "(needs artifactregistry.repositories.uploadArtifacts)", writes: 1,
		},
		"a rival writes while the answer is lost": {
			put: func(_ http.ResponseWriter, s *world, _ func(http.ResponseWriter)) {
				s.putRival()
				panic(http.ErrAbortHandler)
			},
			err: new(*TagTakenError), under: "rival", writes: 1,
		},
		"a rival moves the tag after it was written": {
			get: func(w http.ResponseWriter, s *world, pass func(http.ResponseWriter)) {
				if s.reads == 2 {
					s.putRival()
				}
				pass(w)
			},
			err: new(*MovedError), under: "rival", writes: 1,
		},
		"the registry stores something else": {
			put: func(w http.ResponseWriter, s *world, pass func(http.ResponseWriter)) {
				recorder := httptest.NewRecorder()
				pass(recorder)
				w.Header().Set("Docker-Content-Digest", s.rival.Digest)
				w.WriteHeader(201)
			},
			err: new(*DigestError), under: "image", writes: 1,
		},
		"the registry shows the tag a moment later": {
			get: func(w http.ResponseWriter, s *world, pass func(http.ResponseWriter)) {
				if s.reads == 2 || s.reads == 3 {
					refuse(w, 404, "MANIFEST_UNKNOWN", "manifest unknown")
					return
				}
				pass(w)
			},
			state: Created, under: "image", writes: 1,
		},
		"the registry takes the tag and never shows it": {
			get: func(w http.ResponseWriter, _ *world, _ func(http.ResponseWriter)) {
				refuse(w, 404, "MANIFEST_UNKNOWN", "manifest unknown")
			},
			err: new(error), text: "the registry took it and does not show it", under: "image", writes: 1,
		},
		"a portal answers when the tag is read back": {
			get: func(w http.ResponseWriter, s *world, pass func(http.ResponseWriter)) {
				if s.reads == 2 {
					http.Error(w, "sign in", 404)
					return
				}
				pass(w)
			},
			err: new(*Error), text: "which is not the answer of a registry", under: "image", writes: 1,
		},
	} {
		t.Run(name, func(t *testing.T) {
			repository := folder(t)
			s := &world{image: seed(t, repository), rival: seed(t, repository)}
			s.putRival = func() {
				direct := client()
				repo, err := direct.parse(realHost(t) + "/" + repository)
				if err == nil {
					err = direct.put(context.Background(), repo, tag, s.rival)
				}
				if err != nil {
					t.Error(err)
				}
			}
			f := between(t, func(w http.ResponseWriter, r *http.Request, pass func(http.ResponseWriter)) {
				isTag := strings.HasSuffix(r.URL.Path, "/manifests/"+tag)
				switch {
				case isTag && r.Method == http.MethodPut:
					if s.writes++; c.put != nil {
						c.put(w, s, pass)
						return
					}
				case isTag && r.Method == http.MethodGet:
					if s.reads++; c.get != nil {
						c.get(w, s, pass)
						return
					}
				}
				pass(w)
			})
			state, err := client().Tag(t.Context(), f.host+"/"+repository, tag, s.image)
			if state != c.state || (err == nil) != (c.err == nil) || err != nil && !errors.As(err, c.err) {
				t.Errorf("%q, %T %v; want %q, %T", state, err, err, c.state, c.err)
			}
			if err != nil && !strings.Contains(err.Error(), c.text) {
				t.Errorf("error %q, want %q in it", err, c.text)
			}
			want := map[string]string{"image": s.image.Digest, "rival": s.rival.Digest}[c.under]
			if got := digestUnder(t, repository, tag); got != want {
				t.Errorf("the tag is on %q, want that of %q, %s", got, c.under, want)
			}
			if s.writes != c.writes {
				t.Errorf("written %d times, want %d", s.writes, c.writes)
			}
		})
	}
}

func TestATagEndsWithItsContext(t *testing.T) {
	f := between(t, func(w http.ResponseWriter, r *http.Request, pass func(http.ResponseWriter)) {
		if strings.Contains(r.URL.Path, "/manifests/") {
			<-r.Context().Done() // an answer that never comes
			return
		}
		pass(w)
	})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := client().Tag(ctx, f.host+"/demo", "v1.0.0", Image{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
}
