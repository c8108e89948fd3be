package inventory

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/deepdesk/cloudbuild-steps/internal/secret"
)

const (
	canary = "canary-token-5b2e"
	one    = `{"accounts": [{"id": "orchid", "is_uat": true}]}`
	two    = `{"accounts": [{"id": "maple"}]}`
)

func service(t *testing.T, url string) Service {
	t.Helper()
	a, err := ParseAddress(url)
	if err != nil {
		t.Fatal(err)
	}
	return Service{Address: a, Token: secret.New(canary), Loopback: true, pause: time.Millisecond, limit: 5 * time.Second}
}

func ids(s Snapshot) (list []string) {
	for _, a := range s.Inventory.Accounts {
		list = append(list, a.ID)
	}
	return list
}

// say answers with a body of a type.
func say(contentType, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		_, _ = io.WriteString(w, body)
	}
}

// raw answers with these very bytes and closes the connection.
func raw(answer string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			panic(err)
		}
		_, _ = io.WriteString(conn, answer)
		_ = conn.Close()
	}
}

func zipped(write func(io.Writer)) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	write(w)
	_ = w.Close()
	return b.Bytes()
}

func packed(encoding string, body []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", encoding)
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(body)
	}
}

func TestAWholeInventoryIsRead(t *testing.T) {
	for _, tt := range []struct {
		name    string
		handler http.HandlerFunc
		want    []string
		pages   int
	}{
		{"JSON", say("application/json; charset=utf-8", one), []string{"orchid"}, 1},
		{"JSON of a vendor's type", say("application/vnd.example+json", one), []string{"orchid"}, 1},
		{"YAML", say("text/yaml", "- {id: orchid, is_uat: true}\n- {id: maple}\n"), []string{"orchid", "maple"}, 1},
		{"without a type", raw("HTTP/1.1 200 OK\r\nContent-Length: 48\r\n\r\n" + one), []string{"orchid"}, 1},
		{"in chunks", raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n30\r\n" + one + "\r\n0\r\n\r\n"), []string{"orchid"}, 1},
		{"packed", packed("gzip", zipped(func(w io.Writer) { _, _ = io.WriteString(w, one) })), []string{"orchid"}, 1},
		{"after a redirect to itself", func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/" {
				http.Redirect(w, r, "/accounts", http.StatusFound)
				return
			}
			if r.Header.Get("Authorization") != "Bearer "+canary {
				http.Error(w, "no token", http.StatusUnauthorized)
				return
			}
			say("application/json", one)(w, r)
		}, []string{"orchid"}, 1},
		{"pages by token", func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Query().Get("page_token") {
			case "":
				say("application/json", `{"accounts": [{"id": "orchid", "is_uat": true}], "next_page_token": "a b&c", "total_size": 2}`)(w, r)
			case "a b&c":
				say("application/json", `{"accounts": [{"id": "maple"}], "next_page_token": "", "total_size": 2}`)(w, r)
			}
		}, []string{"orchid", "maple"}, 2},
		{"pages by token in camel case", func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Get("pageToken") == "" {
				say("application/json", `{"accounts": [], "nextPageToken": "2"}`)(w, r)
				return
			}
			say("application/json", two)(w, r)
		}, []string{"maple"}, 2},
		{"pages by link", func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Get("page") == "" {
				w.Header().Set("Link", `</first>; rel="first", </accounts?page=2>; title="more"; rel="last next"`)
				say("application/json", one)(w, r)
				return
			}
			w.Header().Set("Link", `</accounts>; rel="prev"`)
			say("application/json", two)(w, r)
		}, []string{"orchid", "maple"}, 2},
		{"after two failures", failing(2, http.StatusServiceUnavailable, say("application/json", one)), []string{"orchid"}, 1},
		{"after a refusal for the rate", failing(1, http.StatusTooManyRequests, say("application/json", one)), []string{"orchid"}, 1},
		{"after a cut answer", func() http.HandlerFunc {
			var n atomic.Int64
			return func(w http.ResponseWriter, r *http.Request) {
				if n.Add(1) == 1 {
					raw("HTTP/1.1 200 OK\r\nContent-Length: 48\r\n\r\n"+one[:20])(w, r)
					return
				}
				say("application/json", one)(w, r)
			}
		}(), []string{"orchid"}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			server := httptest.NewServer(tt.handler)
			defer server.Close()
			snapshot, err := service(t, server.URL).Read(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, ids(snapshot)); diff != "" {
				t.Error(diff)
			}
			if len(snapshot.Pages) != tt.pages {
				t.Errorf("%d pages", len(snapshot.Pages))
			}
		})
	}
}

func failing(n int64, code int, then http.HandlerFunc) http.HandlerFunc {
	var count atomic.Int64
	return func(w http.ResponseWriter, r *http.Request) {
		if count.Add(1) <= n {
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(code)
			return
		}
		then(w, r)
	}
}

// What a hostile, broken or merely different server may do. None of it gives an inventory, none takes long or much memory, and no message
// holds the token. other is another server of this machine, which must never see a request.
func TestAHostileServerGivesNoInventory(t *testing.T) {
	var strayed atomic.Int64
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		strayed.Add(1)
		say("application/json", one)(w, r)
	}))
	defer other.Close()
	header := "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
	redirect := func(to string, code int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, to, code) }
	}
	for _, tt := range []struct {
		name    string
		handler http.HandlerFunc
		want    string
	}{
		{"a redirect to another port", redirect(other.URL, http.StatusFound), "redirects to another host, http://127.0.0.1:"},
		{"a permanent redirect to another port", redirect(other.URL, http.StatusPermanentRedirect), "redirects to another host"},
		{"a redirect to another name of the same machine", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://localhost:"+strings.Split(r.Host, ":")[1]+"/x", http.StatusFound)
		}, "redirects to another host, http://localhost:"},
		{"a redirect to another scheme", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://"+r.Host+"/x", http.StatusFound)
		}, "redirects to another host, https://127.0.0.1:"},
		{"a redirect to the metadata server", redirect("http://169.254.169.254/computeMetadata/v1/", http.StatusFound), "redirects to another host, http://169.254.169.254:80"},
		{"a redirect to a file", redirect("file:///etc/passwd", http.StatusFound), "redirects to another host"},
		{"a redirect to itself without end", redirect("/again", http.StatusFound), "redirects more than 5 times"},
		{"a redirect without a target", raw("HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n"), "302"},
		{"a sign-in page", say("text/html; charset=utf-8", "<!doctype html><title>Sign in</title>"), "a web page, perhaps one to sign in"},
		{"a sign-in page that says it is JSON", say("application/json", "\n <html><body>Sign in</body></html>"), "a web page, perhaps one to sign in"},
		{"an image", say("image/png", "\x89PNG"), `of type "image/png"`},
		{"a form", say("multipart/form-data; boundary=x", "--x"), "multipart/form-data"},
		{"a broken type", say("application/json; =", one), "Content-Type"},
		{"401", status401, "401 Unauthorized"},
		{"403", code(http.StatusForbidden), "403 Forbidden"},
		{"404", code(http.StatusNotFound), "404 Not Found"},
		{"500 for ever", code(http.StatusInternalServerError), "500 Internal Server Error"},
		{"429 for ever", code(http.StatusTooManyRequests), "429 Too Many Requests"},
		{"201", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusCreated)
			_, _ = io.WriteString(w, one)
		}, "201 Created"},
		{"203", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(203); _, _ = io.WriteString(w, one) }, "203"},
		{"204", code(http.StatusNoContent), "204 No Content"},
		{"206 with a part", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(206); _, _ = io.WriteString(w, one) }, "206 Partial Content"},
		{"304", code(http.StatusNotModified), "304"},
		{"a cut body", raw(header + "Content-Length: 4000\r\n\r\n" + one), "cut after 48 bytes"},
		{"a cut body that parses", raw(header + "Content-Length: 49\r\n\r\n" + one), "cut after 48 bytes"},
		{"a cut chunk", raw(header + "Transfer-Encoding: chunked\r\n\r\n40\r\n" + one), "cut after"},
		{"chunks without an end", raw(header + "Transfer-Encoding: chunked\r\n\r\n30\r\n" + one + "\r\n"), "cut after 48 bytes"},
		{"a body without a length", raw(header + "Connection: close\r\n\r\n" + one), "does not say where it ends"},
		{"HTTP/1.0", raw("HTTP/1.0 200 OK\r\n\r\n" + one), "does not say where it ends"},
		{"two lengths", raw(header + "Content-Length: 48\r\nContent-Length: 10\r\n\r\n" + one), "Content-Length"},
		{"a negative length", raw(header + "Content-Length: -1\r\n\r\n" + one), "Content-Length"},
		{"no HTTP", raw("SSH-2.0-OpenSSH_9.2\r\n"), "malformed HTTP"},
		{"nothing", raw(""), "EOF"},
		{"endless headers", func(w http.ResponseWriter, r *http.Request) {
			raw(header+strings.Repeat("X-Y: "+strings.Repeat("z", 1000)+"\r\n", 200)+"\r\n")(w, r)
		}, "headers exceeded"},
		{"an empty body", say("application/json", ""), "empty"},
		{"white space", say("application/json", " \n"), "empty"},
		{"a body of another kind", say("application/json", `{"error": "no"}`), "no member accounts"},
		{"no accounts", say("application/json", `{"accounts": []}`), "accounts is empty"},
		{"an error beside accounts", say("application/json", `[{"id": "a"}][{"id": "b"}]`), "text after the end"},
		{"a gzip bomb", packed("gzip", bomb()), "the answer is larger than 32 MiB"},
		{"a bomb in a bomb", packed("gzip, gzip", bomb()), "packed as"},
		{"an unknown encoding", packed("br", []byte("x")), `packed as "br"`},
		{"gzip that is none", packed("gzip", []byte(one)), "unpacking the answer"},
		{"cut gzip", packed("gzip", zipped(func(w io.Writer) { _, _ = io.WriteString(w, one) })[:40]), "cut after"},
		{"gzip with a wrong checksum", packed("gzip", damaged()), "checksum"},
		{"text behind gzip", packed("gzip", append(zipped(func(w io.Writer) { _, _ = io.WriteString(w, one) }), "and much more text"...)), "gzip: invalid header"},
		{"an endless body", endless, "the answer is larger than 32 MiB"},
		{"pages in a circle", func(w http.ResponseWriter, r *http.Request) {
			say("application/json", `{"accounts": [{"id": "a`+r.URL.Query().Get("page_token")+`"}], "next_page_token": "1"}`)(w, r)
		}, "lead round in a circle"},
		{"pages without end", countless(), "more than 1000 pages"},
		{"an account on two pages", func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Get("page_token") == "" {
				say("application/json", `{"accounts": [{"id": "maple", "is_uat": true}], "next_page_token": "2"}`)(w, r)
				return
			}
			say("application/json", `{"accounts": [{"id": "Maple"}]}`)(w, r)
		}, `page 2: account 1: line 1: id "Maple" is taken by account 1`},
		{"a second page that fails", func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Get("page_token") != "" {
				w.WriteHeader(http.StatusForbidden)
				return
			}
			say("application/json", `{"accounts": [{"id": "maple"}], "next_page_token": "2"}`)(w, r)
		}, "403"},
		{"a link to another host", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Link", "<"+other.URL+"/2>; rel=next")
			say("application/json", one)(w, r)
		}, "the next page is on another host, http://127.0.0.1:"},
		{"a link to another scheme", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Link", "<https://"+r.Host+"/2>; rel=next")
			say("application/json", one)(w, r)
		}, "the next page is on another host"},
		{"two next links", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Add("Link", "</2>; rel=next")
			w.Header().Add("Link", "</3>; rel=next")
			say("application/json", one)(w, r)
		}, "two next pages"},
		{"a link that is none", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Link", "<http://[::1>; rel=next")
			say("application/json", one)(w, r)
		}, "cannot be read"},
		{"GitLab's pages", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Next-Page", "2")
			say("application/json", one)(w, r)
		}, "X-Next-Page"},
		{"a next member", say("application/json", `{"count": 2, "next": "http://127.0.0.1/2", "accounts": [{"id": "a"}]}`), `member "next" says that this is one page of several`},
		{"has_more", say("application/json", `{"has_more": true, "accounts": [{"id": "a"}]}`), `member "has_more"`},
		{"a HAL link", say("application/json", `{"_links": {"self": {}, "next": {"href": "/2"}}, "accounts": [{"id": "a"}]}`), `member "next" of "_links"`},
		{"a pagination object", say("application/json", `{"pagination": {"next_cursor": "x"}, "accounts": [{"id": "a"}]}`), `member "next_cursor" of "pagination"`},
		{"a total that is larger", say("application/json", `{"total": 3, "accounts": [{"id": "a"}]}`), "total says that there are 3 accounts, and 1 are here"},
		{"a token that is a number", say("application/json", `{"next_page_token": 2, "accounts": [{"id": "a"}]}`), "next_page_token is a number"},
		{"a token of a look-alike name", say("application/json", `{"Next_Page_Token": "2", "accounts": [{"id": "a"}]}`), "looks like"},
		{"two tokens", say("application/json", `{"next_page_token": "2", "nextPageToken": "3", "accounts": [{"id": "a"}]}`), "names another page"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			server := httptest.NewServer(tt.handler)
			defer server.Close()
			started := time.Now()
			_, err := service(t, server.URL+"/?access_token="+canary).Read(t.Context())
			if err == nil {
				t.Fatal("accepted")
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("no %q in: %v", tt.want, err)
			}
			text := err.Error()
			if e, ok := errors.AsType[*Error](err); ok {
				text += e.Fix()
			} else if _, ok := errors.AsType[*DefectError](err); !ok {
				t.Errorf("an error of type %T", err)
			}
			if strings.Contains(text, canary) {
				t.Errorf("the token is in: %s", text)
			}
			if d := time.Since(started); d > 10*time.Second {
				t.Errorf("took %s", d)
			}
		})
	}
	if n := strayed.Load(); n != 0 {
		t.Errorf("the other host got %d requests", n)
	}
}

func code(n int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(n) }
}

// status401 repeats what it was sent, as the error pages of some servers do.
func status401(w http.ResponseWriter, r *http.Request) {
	http.Error(w, "bad token "+r.Header.Get("Authorization"), http.StatusUnauthorized)
}

// bomb is 64 MiB of zeros in a few kilobytes.
func bomb() []byte {
	return zipped(func(w io.Writer) {
		block := make([]byte, 1<<20)
		for range 64 {
			_, _ = w.Write(block)
		}
	})
}

func damaged() []byte {
	b := zipped(func(w io.Writer) { _, _ = io.WriteString(w, one) })
	b[len(b)-8] ^= 0xff
	return b
}

func endless(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	block := bytes.Repeat([]byte(" "), 1<<16)
	for r.Context().Err() == nil {
		if _, err := w.Write(block); err != nil {
			return
		}
	}
}

func countless() http.HandlerFunc {
	var n atomic.Int64
	return func(w http.ResponseWriter, r *http.Request) {
		i := n.Add(1)
		say("application/json", fmt.Sprintf(`{"accounts": [{"id": "a%d"}], "next_page_token": "%d"}`, i, i))(w, r)
	}
}

// A server that sends a byte now and then is left, and so is one that never answers.
func TestASlowServerIsLeft(t *testing.T) {
	for name, handler := range map[string]http.HandlerFunc{
		"it never answers": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"it drips": func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				_, _ = io.WriteString(w, " ")
				w.(http.Flusher).Flush()
				select {
				case <-r.Context().Done():
				case <-time.After(20 * time.Millisecond):
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(handler)
			defer server.Close()
			s := service(t, server.URL)
			s.limit = 100 * time.Millisecond
			started := time.Now()
			_, err := s.Read(t.Context())
			if err == nil || !strings.Contains(err.Error(), "did not answer in time") {
				t.Errorf("error %v", err)
			}
			if d := time.Since(started); d > 20*time.Second {
				t.Errorf("took %s", d)
			}
		})
	}
}

// The token goes where it is told to, in the form that it is told to, and nowhere else.
func TestTheTokenIsSentAsAsked(t *testing.T) {
	for _, tt := range []struct{ header, field, want string }{
		{"", "Authorization", "Bearer " + canary},
		{"Authorization: Bearer", "Authorization", "Bearer " + canary},
		{"authorization: token", "Authorization", "token " + canary},
		{"X-Api-Key", "X-Api-Key", canary},
		{"Private-Token:", "Private-Token", canary},
	} {
		t.Run(tt.header, func(t *testing.T) {
			var got atomic.Value
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				got.Store(r.Header.Clone())
				say("application/json", one)(w, r)
			}))
			defer server.Close()
			s := service(t, server.URL)
			if tt.header != "" {
				if err := s.Header.UnmarshalText([]byte(tt.header)); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := s.Read(t.Context()); err != nil {
				t.Fatal(err)
			}
			headers := got.Load().(http.Header)
			if headers.Get(tt.field) != tt.want {
				t.Errorf("headers %v", headers)
			}
			for name, values := range headers {
				if name != tt.field && strings.Contains(strings.Join(values, " "), canary) {
					t.Errorf("the token is in %s, too", name)
				}
			}
		})
	}
}

func TestHeadersThatCannotCarryAToken(t *testing.T) {
	for _, text := range []string{":", "Host", "Content-Length: 1", "a b: c", "X\r\nY: z", "X-Kéy", "Authorization: B\x00"} {
		var h Header
		if err := h.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is accepted", text)
		}
	}
}

func TestAddressesThatAreRefused(t *testing.T) {
	for _, tt := range []struct {
		url      string
		loopback bool
		want     string
	}{
		{"http://inventory.example/accounts", false, "plain HTTP"},
		{"http://10.0.0.7/accounts", true, "plain HTTP"},
		{"http://127.0.0.1/accounts", false, "ACCOUNTS_LOOPBACK"},
		{"https://localhost/accounts", false, "ACCOUNTS_LOOPBACK"},
		{"https://x.localhost./accounts", false, "ACCOUNTS_LOOPBACK"},
		{"https://[::1]/accounts", false, "ACCOUNTS_LOOPBACK"},
		{"https://[::ffff:127.0.0.1]/accounts", false, "ACCOUNTS_LOOPBACK"},
		{"https://169.254.169.254/accounts", true, "link-local"},
		{"https://[::ffff:169.254.169.254]/accounts", true, "link-local"},
		{"https://[64:ff9b::a9fe:a9fe]/accounts", true, "link-local"},
		{"https://[2002:a9fe:a9fe::]/accounts", true, "link-local"},
		{"https://[fe80::1]/accounts", true, "link-local"},
		{"https://[fd00:ec2::254]/accounts", true, "metadata"},
		{"https://[fd20:ce::254]/accounts", true, "metadata"},
		{"https://168.63.129.16/accounts", true, "metadata"},
		{"https://metadata.google.internal/accounts", true, "metadata"},
		{"https://METADATA/accounts", true, "metadata"},
		{"https://0.0.0.0/accounts", true, "not the address of a host"},
		{"https://[::]/accounts", true, "not the address of a host"},
		{"https://0.1.2.3/accounts", true, "not the address of a host"},
		{"https://255.255.255.255/accounts", true, "not the address of a host"},
		{"https://224.0.0.251/accounts", true, "link-local"},
	} {
		a, err := ParseAddress(tt.url)
		if err == nil {
			err = a.Check(tt.loopback)
		}
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s (loopback %v): %v", tt.url, tt.loopback, err)
		}
	}
	for _, text := range []string{"https://user:" + canary + "@h/a", "ftp://h/a", "https:///a", "https://h/a#b", "https:h/a", "://", "https://h/\x7f?t=" + canary} {
		_, err := ParseAddress(text)
		if err == nil {
			t.Errorf("%q is accepted", text)
		} else if strings.Contains(err.Error(), canary) {
			t.Errorf("the message repeats %q: %v", text, err)
		}
	}
	for _, text := range []string{"https://inventory.example/accounts?active=true", "https://10.1.2.3:8443/a", "https://[fd12::1]/a"} {
		a, err := ParseAddress(text)
		if err == nil {
			err = a.Check(false)
		}
		if err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if strings.Contains(a.String(), "?") {
			t.Errorf("the query is in %s", a)
		}
	}
}

// nameServer answers every question for an IPv4 address with the next of these addresses, the last one for ever.
func nameServer(t *testing.T, answers ...string) *net.Resolver {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	go func() {
		buf := make([]byte, 1500)
		asked := 0
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			// RFC 1035, section 4: a header of 12 bytes, then the question: labels, a zero, type and class.
			end := 12 + bytes.IndexByte(buf[12:n], 0) + 5
			question := buf[12:end]
			answer := append([]byte{buf[0], buf[1], 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0}, question...)
			if binary.BigEndian.Uint16(question[len(question)-4:]) == 1 {
				ip := netip.MustParseAddr(answers[min(asked, len(answers)-1)]).As4()
				asked++
				answer[7] = 1
				answer = append(answer, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4)
				answer = append(answer, ip[:]...)
			}
			_, _ = conn.WriteTo(answer, from)
		}
	}()
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
}

// What a name resolves to is looked at when the connection is made, so that neither a name nor a change of mind of the name server gets a
// request to a forbidden address.
func TestANameThatResolvesToAForbiddenAddress(t *testing.T) {
	server := httptest.NewTLSServer(say("application/json", one))
	defer server.Close()
	port := server.URL[strings.LastIndexByte(server.URL, ':'):]
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	ask := func(loopback bool, answers ...string) error {
		s := service(t, "https://example.com"+port+"/accounts") // the name in the test server's certificate
		s.Loopback, s.roots, s.resolver = loopback, roots, nameServer(t, answers...)
		_, err := s.Read(t.Context())
		return err
	}
	if err := ask(true, "127.0.0.1"); err != nil {
		t.Fatalf("the server cannot be reached at all: %v", err)
	}
	for answer, want := range map[string]string{
		"127.0.0.1": "is an address of this machine", "169.254.169.254": "link-local", "169.254.0.1": "link-local", "168.63.129.16": "metadata server", "0.0.0.0": "not the address of a host",
	} {
		if err := ask(false, answer); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", answer, err)
		}
	}
}

// A certificate that nobody vouches for ends it: not even a token is sent.
func TestACertificateThatNobodyKnows(t *testing.T) {
	var requests atomic.Int64
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		say("application/json", one)(w, r)
	}))
	server.Config.ErrorLog = nil
	server.StartTLS()
	defer server.Close()
	_, err := service(t, server.URL).Read(t.Context())
	if err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("error %v", err)
	}
	if requests.Load() != 0 {
		t.Error("a request was sent")
	}
}

// A build that is ended ends the question, too.
func TestTheContextEndsTheQuestion(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var once sync.Once
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		once.Do(cancel)
		<-r.Context().Done()
	}))
	defer server.Close()
	if _, err := service(t, server.URL).Read(ctx); err == nil {
		t.Error("no error")
	}
}

func FuzzNextTargets(f *testing.F) {
	f.Add(`</a>; rel="first", </b?x=1,2>; rel=next`)
	f.Add(`<a>;rel="next`)
	f.Fuzz(func(t *testing.T, header string) {
		for _, target := range nextTargets(header) {
			if !strings.Contains(header, "<"+target+">") {
				t.Errorf("%q is not in %q", target, header)
			}
		}
	})
}

func FuzzParseAddress(f *testing.F) {
	f.Add("https://inventory.example/accounts?x=1")
	f.Add("http://[::ffff:169.254.169.254]:80/")
	f.Fuzz(func(t *testing.T, text string) {
		a, err := ParseAddress(text)
		if err != nil {
			return
		}
		if _, err := http.NewRequestWithContext(t.Context(), http.MethodGet, a.url.String(), nil); err != nil && a.Check(false) == nil {
			t.Errorf("%q is accepted and cannot be asked: %v", text, err)
		}
	})
}
