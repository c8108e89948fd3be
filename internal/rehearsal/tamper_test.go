package rehearsal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/deepdesk/cloudbuild-steps/internal/accounts"
	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/controlplane"
	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/gitserver"
	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/ociregistry"
)

// delivery is one candidate on its way through the shipped programs: from its image in a real registry over gate-uat and bump-config to
// deploy-helm, on a config repo of its own.
type delivery struct {
	t          *testing.T
	bin        string
	image      string
	url        string // of the config repo
	tree       string // a work tree of it
	workspace  string // the hand-over directory of the release's build
	kubeconfig string
}

const candidate = "v2.0.0-rc.1"

// start pushes the image and the config repo.
func startDelivery(t *testing.T, registry *ociregistry.Registry, git *gitserver.Server, id string) *delivery {
	t.Helper()
	bin, err := filepath.Abs("../../bin")
	if err != nil {
		t.Fatal(err)
	}
	d := &delivery{t: t, bin: bin, image: registry.Host + "/" + id + "/backend", tree: t.TempDir(), workspace: t.TempDir()}
	d.moveTag()
	if d.url, err = git.Create("tamper/" + id); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(d.tree, os.DirFS("../../examples/config")); err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(d.tree, func(name string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			d.edit(name, "europe-docker.pkg.dev/example-cloud/services/backend", d.image)
			d.edit(name, "https://github.com/example/config.git", d.url)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	d.git("init", "--quiet", "--initial-branch=main")
	d.git("remote", "add", "origin", git.Dir("tamper/"+id))
	d.push()
	return d
}

// moveTag puts the candidate's tag on a new image, for which there is no other name.
func (d *delivery) moveTag() {
	d.t.Helper()
	img, err := random.Image(256, 1)
	if err == nil {
		var tag name.Tag
		if tag, err = name.NewTag(d.image + ":" + candidate); err == nil {
			err = remote.Write(tag, img)
		}
	}
	if err != nil {
		d.t.Fatal(err)
	}
}

// deleteTag takes the candidate's image out of the registry.
func (d *delivery) deleteTag() {
	d.t.Helper()
	tag, err := name.NewTag(d.image + ":" + candidate)
	if err != nil {
		d.t.Fatal(err)
	}
	head, err := remote.Head(tag)
	if err == nil {
		err = remote.Delete(tag.Context().Digest(head.Digest.String()))
	}
	if err != nil {
		d.t.Fatal(err)
	}
}

func (d *delivery) git(args ...string) string {
	d.t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = d.tree
	cmd.Env = append(os.Environ(), gitserver.Author("M")...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		d.t.Fatalf("git %v: %v: %s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func (d *delivery) push() {
	d.t.Helper()
	d.git("add", "--all")
	d.git("commit", "--quiet", "--message", "change")
	d.git("push", "--quiet", "--set-upstream", "origin", "main")
}

// edit replaces text in a file of the work tree, or at another path. A case that changes nothing is no case.
func (d *delivery) edit(file, from, to string) {
	d.t.Helper()
	if !filepath.IsAbs(file) {
		file = filepath.Join(d.tree, file)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		d.t.Fatal(err)
	}
	after := bytes.ReplaceAll(b, []byte(from), []byte(to))
	if bytes.Equal(b, after) && strings.HasSuffix(file, ".json") {
		d.t.Fatalf("%s does not hold %q", file, from)
	}
	if err := os.WriteFile(file, after, 0o644); err != nil {
		d.t.Fatal(err)
	}
}

// rewrite changes a decision as somebody would who knows its format well: what comes out is consistent in itself.
func (d *delivery) rewrite(file string, change func(*accounts.Decision)) {
	d.t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		d.t.Fatal(err)
	}
	decision, err := accounts.ParseDecision(b)
	if err != nil {
		d.t.Fatal(err)
	}
	change(&decision)
	var members map[string]json.RawMessage
	if err := json.Unmarshal(b, &members); err != nil { // the frame's stay
		d.t.Fatal(err)
	}
	own, err := json.Marshal(decision)
	if err == nil {
		err = json.Unmarshal(own, &members)
	}
	if err == nil {
		b, err = json.Marshal(members)
	}
	if err == nil {
		_, err = accounts.ParseDecision(b)
	}
	if err != nil {
		d.t.Fatalf("the case is not consistent in itself: %v", err)
	}
	if err := os.WriteFile(file, b, 0o644); err != nil {
		d.t.Fatal(err)
	}
}

func (d *delivery) handedOver() string { return filepath.Join(d.workspace, "gate-uat.json") }

func (d *delivery) recorded() string {
	return filepath.Join(d.tree, "decisions", "backend", candidate+".json")
}

// run runs a program and asserts its exit code.
func (d *delivery) run(want int, program string, env ...string) string {
	d.t.Helper()
	var stderr bytes.Buffer
	cmd := exec.CommandContext(d.t.Context(), filepath.Join(d.bin, program))
	cmd.Env = append([]string{"HOME=" + d.t.TempDir(), "CONFIG_REPO=" + d.url}, env...)
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		if _, ok := errors.AsType[*exec.ExitError](err); !ok {
			d.t.Fatalf("%v: run `make binaries` first (`make test` does)", err)
		}
	}
	if got := cmd.ProcessState.ExitCode(); got != want {
		d.t.Fatalf("%s exited with %d, want %d:\n%s", program, got, want, stderr.String())
	}
	return stderr.String()
}

func (d *delivery) gate() {
	d.t.Helper()
	d.run(0, "gate-uat", "BUILD_ID=release-1", "TAG_NAME="+candidate, "IMAGE="+d.image, "HANDOVER_DIR="+d.workspace)
}

func (d *delivery) bump(want int) string {
	d.t.Helper()
	return d.run(want, "bump-config", "BUILD_ID=release-1", "TAG_NAME="+candidate, "IMAGE="+d.image, "HANDOVER_DIR="+d.workspace, "REQUIRE_DECISION=true")
}

func (d *delivery) deploy(want int, account string) string {
	d.t.Helper()
	return d.run(want, "deploy-helm", "BUILD_ID=deploy-1", "KUBECONFIG="+d.kubeconfig, "SELECT=account="+account, "HANDOVER_DIR="+d.t.TempDir())
}

// allow moves an account from the held to the allowed, with the reason of those that are.
func allow(account string) func(*accounts.Decision) {
	return func(d *accounts.Decision) {
		d.Held = slices.DeleteFunc(d.Held, func(v accounts.Verdict) bool { return v.Account == account })
		d.Allowed = append(d.Allowed, accounts.Verdict{Account: account, Region: "europe-west1", Reason: "UAT account"})
	}
}

// servers starts a registry and a Git server that end with the test.
func servers(t *testing.T) (*ociregistry.Registry, *gitserver.Server) {
	t.Helper()
	registry, err := ociregistry.Start(t.Context(), ociregistry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = registry.Close() })
	git, err := gitserver.Start(t.TempDir(), gitserver.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = git.Close() })
	return registry, git
}

// Between the gate and the commit: whoever changes the decision, the tag or the inventory gets no commit.
func TestTamperingBetweenGateAndCommitStopsBumpConfig(t *testing.T) {
	registry, git := servers(t)
	another := "sha256:" + strings.Repeat("5", 64)
	for i, tt := range []struct {
		name   string
		tamper func(*delivery)
		code   int
		want   string
	}{
		{"nothing", func(*delivery) {}, 0, "pushed"},
		{"decision: a production account is allowed", func(d *delivery) { d.rewrite(d.handedOver(), allow("maple")) }, 3, "allows account maple, and by the inventory candidates are for UAT accounts only"},
		{"decision: the same, and the commit of the inventory is wiped", func(d *delivery) {
			d.rewrite(d.handedOver(), func(x *accounts.Decision) { allow("maple")(x); x.InventoryCommit = "" })
		}, 3, "to 1 accounts that the inventory accounts.yaml does not mark is_uat: maple"},
		{"decision: a stranger is allowed", func(d *delivery) { d.rewrite(d.handedOver(), allow("ghost")) }, 3, "is about 6 accounts, and the inventory has 5"},
		{"decision: another digest", func(d *delivery) {
			d.rewrite(d.handedOver(), func(x *accounts.Decision) { x.Digest = another })
		}, 3, "the gate decided on .* with digest sha256:5555"},
		{"decision: another version", func(d *delivery) {
			d.rewrite(d.handedOver(), func(x *accounts.Decision) { x.Version, x.Channel = "v2.0.0", "production" })
		}, 3, "the gate decided on version v2.0.0"},
		{"decision: another image", func(d *delivery) {
			d.rewrite(d.handedOver(), func(x *accounts.Decision) { x.Image = "registry.example/backend" })
		}, 3, "the gate decided on image registry.example/backend"},
		{"decision: another hash", func(d *delivery) {
			d.rewrite(d.handedOver(), func(x *accounts.Decision) { x.InventorySHA256 = strings.Repeat("0", 64) })
		}, 3, "the inventory is not the one that the decision was made on"},
		{"decision: of another build", func(d *delivery) { d.edit(d.handedOver(), "release-1", "release-0") }, 1, "is of build \"release-0\""},
		{"decision: of another build, under this one's name", func(d *delivery) {
			d.rewrite(d.handedOver(), func(x *accounts.Decision) { x.Build = "release-0" })
		}, 3, "the decision is of build \"release-0\""},
		{"decision: a member more", func(d *delivery) { d.edit(d.handedOver(), `"region": ""`, `"Region": "", "region": ""`) }, 3, "reading the decision"},
		{"decision: a member twice", func(d *delivery) { d.edit(d.handedOver(), `"channel": "uat"`, `"channel": "uat", "channel": "uat"`) }, 3, "stands twice"},
		{"decision: cut", func(d *delivery) { _ = os.Truncate(d.handedOver(), 700) }, 1, "damaged"},
		{"decision: gone", func(d *delivery) { _ = os.Remove(d.handedOver()) }, 3, "gate-uat handed over no decision"},
		{"tag: on another image", func(d *delivery) { d.moveTag() }, 3, "the tag names sha256:"},
		{"tag: gone", func(d *delivery) { d.deleteTag() }, 3, "the tag is gone"},
		{"inventory: a production account is made a UAT account", func(d *delivery) {
			d.edit("accounts.yaml", "- id: maple\n  is_uat: false", "- id: maple\n  is_uat: true")
			d.push()
		}, 3, "it has changed since"},
		{"inventory: a comment", func(d *delivery) { d.edit("accounts.yaml", "accounts:", "# nothing\naccounts:"); d.push() }, 3, "it has changed since"},
		{"inventory: gone", func(d *delivery) { d.git("rm", "--quiet", "accounts.yaml"); d.push() }, 3, "does not have any more"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := startDelivery(t, registry, git, fmt.Sprintf("bump-%d", i))
			d.gate()
			tt.tamper(d)
			before := d.git("ls-remote", "origin", "main")
			stderr := d.bump(tt.code)
			if !matches(stderr, tt.want) {
				t.Errorf("no %q in: %s", tt.want, stderr)
			}
			if after := d.git("ls-remote", "origin", "main"); (after != before) != (tt.code == 0) {
				t.Errorf("the branch went from %s to %s", before, after)
			}
		})
	}
}

// What no inventory can show, such as a region that was added to those admitted, a seal does.
func TestASealShowsWhatNothingElseDoes(t *testing.T) {
	registry, git := servers(t)
	admitAll := func(d *delivery) {
		d.rewrite(d.handedOver(), func(x *accounts.Decision) { allow("willow")(x); x.Region = "" })
	}
	for i, tt := range []struct {
		name           string
		atGate, atBump string
		tamper         func(*delivery)
		code           int
		want           string
	}{
		{"no key: another region is admitted unseen", "", "", admitAll, 0, "pushed"},
		{"with a key it is not", "canary-key", "canary-key", admitAll, 3, "the seal of the decision is not right"},
		{"nothing was changed", "canary-key", "canary-key", func(*delivery) {}, 0, "pushed"},
		{"another key", "canary-key", "canary-other", func(*delivery) {}, 3, "the seal of the decision is not right"},
		{"no seal at all", "", "canary-key", func(*delivery) {}, 3, "the decision has no seal"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := startDelivery(t, registry, git, fmt.Sprintf("seal-%d", i))
			env := []string{"BUILD_ID=release-1", "TAG_NAME=" + candidate, "IMAGE=" + d.image, "HANDOVER_DIR=" + d.workspace}
			log := d.run(0, "gate-uat", append(env, "REGION=europe-west1", "DECISION_KEY="+tt.atGate)...)
			tt.tamper(d)
			log += d.run(tt.code, "bump-config", append(env, "DECISION_KEY="+tt.atBump)...)
			if !matches(log, tt.want) || strings.Contains(log, "canary") {
				t.Errorf("no %q, or the key, in: %s", tt.want, log)
			}
		})
	}
}

// Between the commit and the cluster: whoever changes the recorded decision, the values, the tag or the inventory deploys nothing.
func TestTamperingBetweenCommitAndClusterStopsDeployHelm(t *testing.T) {
	cluster, err := controlplane.Start(t.Context(), controlplane.Options{Log: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cluster.Close() }()
	registry, git := servers(t)
	// toMaple writes the candidate into a production account's entry, as somebody with access to the config repo can.
	toMaple := func(d *delivery) {
		b, err := os.ReadFile(filepath.Join(d.tree, "accounts", "orchid", "backend.yaml"))
		if err != nil {
			d.t.Fatal(err)
		}
		text := strings.NewReplacer("orchid", "maple", "backend-uat", "backend-production").Replace(string(b))
		if err := os.WriteFile(filepath.Join(d.tree, "accounts", "maple", "backend.yaml"), []byte(text), 0o644); err != nil {
			d.t.Fatal(err)
		}
	}
	another := "sha256:" + strings.Repeat("5", 64)
	for i, tt := range []struct {
		name    string
		tamper  func(*delivery)
		account string
		code    int
		want    string
	}{
		{"decision: a production account is allowed", func(d *delivery) { toMaple(d); d.rewrite(d.recorded(), allow("maple")) }, "maple", 3, "allows account maple, and the inventory does not mark it is_uat"},
		{"decision: gone, and a production account has the candidate", func(d *delivery) { toMaple(d); _ = os.Remove(d.recorded()) }, "maple", 3, "account maple is not marked is_uat in the inventory"},
		{"decision: another digest", func(d *delivery) { d.rewrite(d.recorded(), func(x *accounts.Decision) { x.Digest = another }) }, "orchid", 3, "is about sha256:5555"},
		{"decision: of another version", func(d *delivery) {
			d.rewrite(d.recorded(), func(x *accounts.Decision) { x.Version = "v2.0.0-rc.2" })
		}, "orchid", 3, "is about backend/v2.0.0-rc.2"},
		{"decision: a member more", func(d *delivery) { d.edit(d.recorded(), `"region": ""`, `"region": "", "extra": ""`) }, "orchid", 3, `member "extra" is not known`},
		{"decision: cut", func(d *delivery) { _ = os.Truncate(d.recorded(), 300) }, "orchid", 3, "decision decisions/backend/v2.0.0-rc.1.json: "},
		{"values: another digest", func(d *delivery) { d.edit("accounts/orchid/backend.yaml", "digest: sha256:", "digest: sha256:0000 #") }, "orchid", 3, "values.image.digest is"},
		{"values and decision: a digest that the tag never had", func(d *delivery) {
			var was string
			d.rewrite(d.recorded(), func(x *accounts.Decision) { was, x.Digest = x.Digest, another })
			d.edit("accounts/orchid/backend.yaml", was, another)
		}, "orchid", 3, "is about digest sha256:5555.* names sha256:.* now"},
		{"tag: on another image", func(d *delivery) { d.moveTag(); _ = os.WriteFile(filepath.Join(d.tree, "x"), nil, 0o644) }, "orchid", 3, "names sha256:.* now"},
		{"tag: gone", func(d *delivery) { d.deleteTag(); _ = os.WriteFile(filepath.Join(d.tree, "x"), nil, 0o644) }, "orchid", 3, "is gone"},
		{"inventory: the account is no UAT account any more", func(d *delivery) {
			d.edit("accounts.yaml", "- id: orchid\n  is_uat: true", "- id: orchid\n  is_uat: false")
		}, "orchid", 3, "allows account orchid, and the inventory does not mark it is_uat"},
		{"inventory: gone", func(d *delivery) { d.git("rm", "--quiet", "accounts.yaml") }, "orchid", 3, "which the config repo does not have any more"},
		{"inventory: a defect", func(d *delivery) { d.edit("accounts.yaml", "is_uat: true", `is_uat: "true"`) }, "orchid", 3, "inventory accounts.yaml: account 1"},
		{"inventory: a production account is made a UAT account", func(d *delivery) {
			toMaple(d)
			d.edit("accounts.yaml", "- id: maple\n  is_uat: false", "- id: maple\n  is_uat: true")
		}, "maple", 0, "account-maple/backend +- +v2.0.0-rc.1 +0 +skipped .*does not allow account maple"},
		{"nothing", func(d *delivery) { _ = os.WriteFile(filepath.Join(d.tree, "x"), nil, 0o644) }, "orchid", 0, "account-orchid/backend +- +v2.0.0-rc.1 +1 +deployed"}, // the first revision: nothing came before
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := startDelivery(t, registry, git, fmt.Sprintf("deploy-%d", i))
			d.kubeconfig = cluster.DeployerKubeconfig
			d.gate()
			d.bump(0)
			d.git("pull", "--quiet")
			tt.tamper(d)
			d.push()
			if stderr := d.deploy(tt.code, tt.account); !matches(stderr, tt.want) {
				t.Errorf("no %q in: %s", tt.want, stderr)
			}
		})
	}
}

func matches(text, pattern string) bool { return regexp.MustCompile(pattern).MatchString(text) }
