package gitclaim

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/gitserver"
	"github.com/deepdesk/cloudbuild-steps/internal/secret"
)

const (
	canary = "canary-token-71c2"
	name   = "example/config"
	image  = "127.0.0.1:5000/services/backend"
)

func digest(n int) string { return fmt.Sprintf("sha256:%064x", n) }

// start serves an empty repository that takes pushes with the token. wrap may be nil.
func start(t *testing.T, wrap func(http.Handler) http.Handler) (*gitserver.Server, Repository) {
	t.Helper()
	server, err := gitserver.Start(filepath.Join(t.TempDir(), "git"), gitserver.Options{Token: canary, Wrap: wrap})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	url, err := server.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	return server, Repository{URL: url, Username: "any", Token: secret.New(canary)}
}

// git runs the git command line in the server's repository.
func git(t *testing.T, server *gitserver.Server, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", args...)
	cmd.Dir = server.Dir(name)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL="+os.DevNull)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return string(out)
}

func TestATagIsClaimedForOneDigest(t *testing.T) {
	server, repository := start(t, nil)
	ours := Claim{image, "v1.0.0", digest(1)}
	for range 2 { // the second time it is ours already
		if err := repository.Make(t.Context(), ours); err != nil {
			t.Fatal(err)
		}
	}
	err := repository.Make(t.Context(), Claim{image, "v1.0.0", digest(2)})
	taken, ok := errors.AsType[*TakenError](err)
	if !ok || taken.Have != digest(1) || !strings.Contains(err.Error(), digest(1)) || !strings.Contains(err.Error(), digest(2)) {
		t.Errorf("error %v", err)
	}
	// Another tag, and a repository whose name continues this one's.
	for _, c := range []Claim{{image, "v1.0.1", digest(2)}, {image + "/v1.0.0", "v1.0.0", digest(2)}, {strings.TrimSuffix(image, "/backend"), "backend", digest(2)}} {
		if err := repository.Make(t.Context(), c); err != nil {
			t.Error(err)
		}
	}
	want := "image 127.0.0.1:5000/services/backend\ntag v1.0.0\ndigest " + digest(1) + "\n"
	if got := git(t, server, "cat-file", "blob", "refs/tag-claims/127.0.0.1%3A5000/services/backend/-/v1.0.0"); got != want {
		t.Errorf("git reads %q", got)
	}
	git(t, server, "fsck", "--strict")
}

func TestOfManyWritersExactlyOneGetsTheTag(t *testing.T) {
	_, repository := start(t, nil)
	const writers, rounds = 6, 4
	for round := range rounds {
		var (
			all  sync.WaitGroup
			wins atomic.Int32
			won  atomic.Int32
			errs = make([]error, writers)
		)
		for w := range writers {
			all.Go(func() {
				errs[w] = repository.Make(t.Context(), Claim{image, fmt.Sprintf("v1.0.%d", round), digest(w)})
				if errs[w] == nil {
					wins.Add(1)
					won.Store(int32(w))
				}
			})
		}
		all.Wait()
		if wins.Load() != 1 {
			t.Errorf("round %d: %d writers won: %v", round, wins.Load(), errs)
		}
		for w, err := range errs {
			if taken, ok := errors.AsType[*TakenError](err); err != nil && (!ok || taken.Have != digest(int(won.Load()))) {
				t.Errorf("round %d: writer %d: %v", round, w, err)
			}
		}
	}
}

func TestGitTakesEveryRefName(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range []Claim{
		{"localhost/a", "x.lock", ""}, {"localhost/a", "x..y", ""}, {"localhost/a", "x.", ""}, {"localhost/a.lock", "x", ""}, {"localhost:5000/a", "x", ""},
		{"localhost/a", "-", ""}, {"localhost/a/b", "x", ""}, {"localhost/a", "b", ""}, {"localhost/a", "_x__-", ""},
	} {
		ref := c.Ref()
		if seen[ref] {
			t.Errorf("%s twice", ref)
		}
		seen[ref] = true
		if out, err := exec.CommandContext(t.Context(), "git", "check-ref-format", ref).CombinedOutput(); err != nil {
			t.Errorf("%s: %v %s", ref, err, out)
		}
	}
}

func TestWhenClaimingFails(t *testing.T) {
	isPush := func(r *http.Request) bool {
		return r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/git-receive-pack")
	}
	lookOnly := func(w http.ResponseWriter, r *http.Request, next http.Handler, act func()) {
		if strings.HasSuffix(r.URL.Path, "/info/refs") {
			act()
			return
		}
		next.ServeHTTP(w, r)
	}
	first := func(n *int) bool { *n++; return *n == 1 }
	for title, c := range map[string]struct {
		act  func(w http.ResponseWriter, r *http.Request, next http.Handler, n *int)
		err  any // pointer to its type; nil: the tag is claimed
		text string
	}{
		"the answer to the push is lost": {func(w http.ResponseWriter, r *http.Request, next http.Handler, n *int) {
			if isPush(r) && first(n) {
				next.ServeHTTP(httptest.NewRecorder(), r)
				panic(http.ErrAbortHandler)
			}
			next.ServeHTTP(w, r)
		}, nil, ""},
		"the push is lost": {func(w http.ResponseWriter, r *http.Request, next http.Handler, n *int) {
			if isPush(r) && first(n) {
				panic(http.ErrAbortHandler)
			}
			next.ServeHTTP(w, r)
		}, nil, ""},
		"the report is cut": {func(w http.ResponseWriter, r *http.Request, next http.Handler, n *int) {
			if isPush(r) && first(n) {
				next.ServeHTTP(httptest.NewRecorder(), r)
				fmt.Fprint(w, "000eunpack ok\n00")
				return
			}
			next.ServeHTTP(w, r)
		}, nil, ""},
		"the server is busy": {func(w http.ResponseWriter, r *http.Request, next http.Handler, n *int) {
			if first(n) {
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			next.ServeHTTP(w, r)
		}, nil, ""},
		"the list of refs is cut": {func(w http.ResponseWriter, r *http.Request, next http.Handler, n *int) {
			if !first(n) {
				next.ServeHTTP(w, r)
				return
			}
			recorder := httptest.NewRecorder()
			next.ServeHTTP(recorder, r)
			_, _ = w.Write(recorder.Body.Bytes()[:recorder.Body.Len()-4])
		}, nil, ""},
		"no such repository": {func(w http.ResponseWriter, r *http.Request, next http.Handler, _ *int) {
			lookOnly(w, r, next, func() { http.NotFound(w, r) })
		}, new(*AccessError), "404"},
		"no right to push": {func(w http.ResponseWriter, r *http.Request, next http.Handler, _ *int) {
			if isPush(r) {
				http.Error(w, canary, http.StatusForbidden)
				return
			}
			next.ServeHTTP(w, r)
		}, new(*AccessError), "403"},
		"a hook declines": {func(w http.ResponseWriter, r *http.Request, next http.Handler, _ *int) {
			if isPush(r) {
				fmt.Fprint(w, packet("unpack ok\n")+packet("ng x pre-receive hook declined\n")+"0000")
				return
			}
			next.ServeHTTP(w, r)
		}, new(*RefusedError), "pre-receive hook declined"},
		"a redirect to another host": {func(w http.ResponseWriter, r *http.Request, next http.Handler, _ *int) {
			http.Redirect(w, r, "http://127.0.0.2:1/stolen?"+canary, http.StatusTemporaryRedirect)
		}, new(error), errRedirect.Error()},
		"a redirect loop": {func(w http.ResponseWriter, r *http.Request, next http.Handler, _ *int) {
			http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect)
		}, new(error), errRedirect.Error()},
		"another kind of names": {func(w http.ResponseWriter, r *http.Request, next http.Handler, _ *int) {
			lookOnly(w, r, next, func() {
				fmt.Fprint(w, packet("# service=git-receive-pack\n")+"0000"+packet(zero+zero[:24]+" capabilities^{}\x00object-format=sha256\n")+"0000")
			})
		}, new(error), "sha256 names"},
		"a web page": {func(w http.ResponseWriter, _ *http.Request, _ http.Handler, _ *int) { fmt.Fprint(w, "<html>"+canary) }, new(error), "not a Git server's"},
	} {
		t.Run(title, func(t *testing.T) {
			t.Parallel()
			n := 0
			server, repository := start(t, func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { c.act(w, r, next, &n) })
			})
			claim := Claim{image, "v1.0.0", digest(1)}
			err := repository.Make(t.Context(), claim)
			if (err == nil) != (c.err == nil) || err != nil && (!errors.As(err, c.err) || !strings.Contains(err.Error(), c.text)) {
				t.Errorf("error %v, want %T with %q", err, c.err, c.text)
			}
			if err != nil && strings.Contains(err.Error(), canary) {
				t.Errorf("error %q repeats what was answered", err)
			}
			if got := git(t, server, "for-each-ref", "--format=%(refname)", "refs/tag-claims"); (strings.TrimSpace(got) == claim.Ref()) != (c.err == nil) {
				t.Errorf("refs %q", got)
			}
		})
	}
}

func TestAClaimThatCannotBeReadIsNotOurs(t *testing.T) {
	server, repository := start(t, nil)
	claim := Claim{image, "v1.0.0", digest(1)}
	tree := strings.TrimSpace(git(t, server, "hash-object", "-w", "-t", "tree", os.DevNull))
	for _, id := range []string{tree, strings.TrimSpace(git(t, server, "hash-object", "-w", "HEAD"))} {
		git(t, server, "update-ref", claim.Ref(), id)
		err := repository.Make(t.Context(), claim)
		if taken, ok := errors.AsType[*TakenError](err); !ok || taken.Have != "" || !strings.Contains(err.Error(), "cannot be read") {
			t.Errorf("error %v", err)
		}
	}
}

func TestAClaimEndsWithItsContext(t *testing.T) {
	_, repository := start(t, func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "3600")
			w.WriteHeader(http.StatusTooManyRequests)
		})
	})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	begin := time.Now()
	if err := repository.Make(ctx, Claim{image, "v1.0.0", digest(1)}); err == nil || !strings.Contains(err.Error(), "429") || time.Since(begin) > 5*time.Second {
		t.Errorf("after %s: %v", time.Since(begin), err)
	}
}

func FuzzFindRef(f *testing.F) {
	f.Add([]byte(packet("# service=git-receive-pack\n") + "0000" + packet(zero+" refs/heads/main\x00report-status\n") + packet(zero+" refs/x\n") + "0000"))
	f.Add([]byte("0003"))
	f.Add([]byte("ffff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if at, err := findRef(bufio.NewReader(bytes.NewReader(b)), "refs/x"); at != "" && (err != nil || !bytes.Contains(b, []byte(at+" refs/x"))) {
			t.Errorf("%q, %v", at, err)
		}
	})
}

func FuzzUnpack(f *testing.F) {
	f.Add(pack(Claim{image, "v1.0.0", digest(1)}.blob()))
	f.Add(pack(nil))
	f.Add(pack(bytes.Repeat([]byte("x"), blobLimit+1)))
	f.Fuzz(func(t *testing.T, b []byte) {
		blob, err := unpack(bufio.NewReader(bytes.NewReader(b)))
		if err != nil {
			return
		}
		if again, err := unpack(bufio.NewReader(bytes.NewReader(pack(blob)))); err != nil || !bytes.Equal(again, blob) {
			t.Errorf("%q, %v", again, err)
		}
		if c, err := parse(blob); err == nil && !bytes.Equal(c.blob(), blob) {
			t.Errorf("%q is read as %+v", blob, c)
		}
	})
}

// A token that was good for the last request may have ended since.
func TestTheTokenOfAnAppIsAskedForBeforeEveryRequest(t *testing.T) {
	var requests, asked atomic.Int32
	_, repository := start(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			requests.Add(1)
			next.ServeHTTP(w, r)
		})
	})
	repository.Token = secret.New("the wrong one")
	repository.Renew = func(_ context.Context, url string) (secret.Text, error) {
		if asked.Add(1); url != repository.URL {
			t.Errorf("asked for a token for %s", url)
		}
		return secret.New(canary), nil
	}
	if err := repository.Make(t.Context(), Claim{image, "v1.0.0", digest(1)}); err != nil {
		t.Fatal(err)
	}
	if asked.Load() != requests.Load() || requests.Load() < 2 {
		t.Errorf("%d tokens for %d requests", asked.Load(), requests.Load())
	}
	before := requests.Load()
	repository.Renew = func(context.Context, string) (secret.Text, error) {
		return secret.Text{}, errors.New("the app is suspended")
	}
	err := repository.Make(t.Context(), Claim{image, "v1.0.1", digest(1)})
	if err == nil || !strings.Contains(err.Error(), "the app is suspended") || strings.Contains(err.Error(), canary) || requests.Load() != before {
		t.Errorf("error %v after %d more requests", err, requests.Load()-before)
	}
}
