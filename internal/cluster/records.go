package cluster

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"helm.sh/helm/v4/pkg/release/common"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

var secrets = schema.GroupVersionResource{Version: "v1", Resource: "secrets"}

// The labels that this suite puts on the release records it writes (Secrets of type helm.sh/release.v1, next to Helm's own labels name,
// owner, status and version). Helm copies the labels of a record to the next one, also when somebody else upgrades or rolls back by hand;
// that is why the first of them binds the rest to one revision.
const (
	labelPrefix    = "cloudbuild-steps.deepdesk.com/"
	labelDigest    = labelPrefix + "digest"    // REVISION.DIGEST: the revision that these labels are about, and the digest of what it deploys
	labelBuild     = labelPrefix + "build"     // id of the build that wrote the record
	labelCommit    = labelPrefix + "commit"    // commit of the config repo, 40 hexadecimal digits
	labelCommitted = labelPrefix + "committed" // its commit time, in seconds since 1970
	labelVersion   = labelPrefix + "version"   // what people call the deployed thing: image tag or chart version
	labelUntil     = labelPrefix + "until"     // the writer is dead after this time, in seconds since 1970
	labelBeats     = labelPrefix + "beats"     // true: the writer gives signs of life (heartbeat.go)
	labelSource    = labelPrefix + "source"    // which part of which config repo the release was deployed from
	labelAccount   = labelPrefix + "account"   // whose it is
	labelRemoves   = labelPrefix + "removes"   // true: the one who writes the record as uninstalling is this suite (remove.go)
)

var ownLabels = []string{labelDigest, labelBuild, labelCommit, labelCommitted, labelVersion, labelUntil, labelBeats, labelSource, labelAccount, labelRemoves}

// Mark is what this suite remembers with a release record. Its zero value is the mark of a record that somebody else wrote.
type Mark struct {
	Digest    string    // of chart, values and settings; at most 50 letters, digits, - or _
	Build     string    // BUILD_ID of the writer; "" outside Cloud Build
	Commit    string    // commit of the config repo; "" when it is not known
	Committed time.Time // its commit time, to the second; zero when it is not known
	Version   string    // for people: image tag or chart version
	Until     time.Time // the writer is dead after this time, to the second
	Beats     bool      // a pending record changes at least every HeartbeatEvery, or its writer is dead
	Source    string    // names the part of the config repo that the release comes from, in a label's letters; "" when it is not known
	Account   string    // whose the release is; "" for nobody's
}

func (m Mark) labels(revision int) map[string]string {
	set := map[string]string{labelDigest: strconv.Itoa(revision) + "." + m.Digest}
	put := func(key, value string) {
		if value != "" {
			set[key] = labelValue(value)
		}
	}
	put(labelBuild, m.Build)
	put(labelCommit, m.Commit)
	put(labelVersion, m.Version)
	put(labelSource, m.Source)
	put(labelAccount, m.Account)
	if m.Beats {
		put(labelBeats, "true")
	}
	if !m.Committed.IsZero() {
		put(labelCommitted, strconv.FormatInt(m.Committed.Unix(), 10))
	}
	if !m.Until.IsZero() {
		put(labelUntil, strconv.FormatInt(m.Until.Unix(), 10))
	}
	return set
}

// on returns a record's labels with this mark of a revision in the place of any other. The labels themselves stay as they are.
func (m Mark) on(set map[string]string, revision int) map[string]string {
	marked := m.labels(revision)
	for label, value := range set {
		if !slices.Contains(ownLabels, label) {
			marked[label] = value
		}
	}
	return marked
}

// markOf reads the mark of one revision from its record's labels. Labels that were copied from another revision do not count.
func markOf(set map[string]string, revision int) Mark {
	of, digest, ok := strings.Cut(set[labelDigest], ".")
	if !ok || of != strconv.Itoa(revision) {
		return Mark{}
	}
	m := Mark{
		Digest: digest, Build: set[labelBuild], Commit: set[labelCommit], Version: set[labelVersion], Beats: set[labelBeats] == "true",
		Source: set[labelSource], Account: set[labelAccount],
	}
	if s, err := strconv.ParseInt(set[labelCommitted], 10, 64); err == nil {
		m.Committed = time.Unix(s, 0).UTC()
	}
	if s, err := strconv.ParseInt(set[labelUntil], 10, 64); err == nil {
		m.Until = time.Unix(s, 0).UTC()
	}
	return m
}

// labelValue makes a text fit into a Kubernetes label: at most 63 of A-Z a-z 0-9 - _ . with a letter or digit at both ends. The `+` of
// build metadata becomes `_`, as Helm's own chart label has it.
func labelValue(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '_', r == '.':
			return r
		}
		return '_'
	}, s)
	if len(s) > 63 {
		s = s[:63]
	}
	return strings.Trim(s, "-_.")
}

// BuildLabel is the form in which a build's id stands in a [Mark] that was read back.
func BuildLabel(id string) string { return labelValue(id) }

// Record is one revision of a release, as its metadata tells.
type Record struct {
	Namespace string // where the record is stored; "" for no record at all
	Name      string // of the release
	Revision  int    // counts from 1; 0 for no record at all
	Status    string // Helm's word: deployed, failed, superseded, pending-upgrade, …
	Written   time.Time
	Mark      Mark
	State     string // differs after each write of the record; "" when it is not known
	UID       string // differs from that of any other record in any cluster
}

// Pending reports whether an install, upgrade, roll back or uninstall is under way, or was when its writer died. Helm does not count the last
// one, and can neither install nor upgrade what a dead `helm uninstall` left.
func (r Record) Pending() bool { return isPending(common.Status(r.Status)) }

func isPending(s common.Status) bool { return s.IsPending() || s == common.StatusUninstalling }

// Uninstalled reports whether nothing is left of the release but its history.
func (r Record) Uninstalled() bool { return r.Status == common.StatusUninstalled.String() }

// Deployed reports whether this revision is what runs.
func (r Record) Deployed() bool { return r.Status == common.StatusDeployed.String() }

// Key names a release: the namespace in which its records are stored, and its name.
type Key struct{ Namespace, Name string }

// State is what a cluster remembers of one release.
type State struct {
	Newest  Record // the newest revision
	Running Record // the newest revision that is deployed, or was before an attempt that failed
}

// States lists the releases of the whole cluster with one request that reads metadata only: however large charts and values are, an
// unchanged release costs a few hundred bytes for each of its revisions.
func (c *Cluster) States(ctx context.Context) (map[Key]State, error) {
	records, err := c.records(ctx, "", labels.Set{"owner": "helm"})
	if err != nil {
		return nil, fmt.Errorf("listing the release records of the cluster: %w", c.explain(err))
	}
	states := map[Key]State{}
	for _, r := range records {
		key := Key{r.Namespace, r.Name}
		s := states[key]
		s.add(r)
		states[key] = s
	}
	return states, nil
}

// State reads what the cluster remembers of one release.
func (c *Cluster) State(ctx context.Context, key Key) (State, error) {
	records, err := c.records(ctx, key.Namespace, labels.Set{"owner": "helm", "name": key.Name})
	if err != nil {
		return State{}, fmt.Errorf("listing the records of release %s/%s: %w", key.Namespace, key.Name, c.explain(err))
	}
	var s State
	for _, r := range records {
		s.add(r)
	}
	return s, nil
}

// add takes one more record into the state, in any order.
func (s *State) add(r Record) {
	if r.Revision > s.Newest.Revision {
		s.Newest = r
	}
	// A kill between Helm's last two writes leaves no revision deployed: the one before is superseded already, the new one still pending.
	ranOnce := r.Status == common.StatusSuperseded.String()
	switch {
	case r.Deployed() && (!s.Running.Deployed() || r.Revision > s.Running.Revision),
		ranOnce && !s.Running.Deployed() && r.Revision > s.Running.Revision:
		s.Running = r
	}
}

// records lists the metadata of release records in one namespace, or in all of them for "".
func (c *Cluster) records(ctx context.Context, namespace string, selector labels.Set) ([]Record, error) {
	list, err := c.meta.Resource(secrets).Namespace(namespace).List(ctx, metav1.ListOptions{LabelSelector: selector.String()})
	if err != nil {
		return nil, err
	}
	var records []Record
	for i := range list.Items {
		if r, ok := recordOf(&list.Items[i]); ok {
			records = append(records, r)
		}
	}
	return records, nil
}

// recordOf reads a record's metadata. A Secret that only borrows Helm's labels is none.
func recordOf(o *metav1.PartialObjectMetadata) (Record, bool) {
	revision, err := strconv.Atoi(o.Labels["version"])
	if name := o.Labels["name"]; err != nil || name == "" || o.Name != recordName(name, revision) {
		return Record{}, false
	}
	r := Record{
		Namespace: o.Namespace, Name: o.Labels["name"], Revision: revision, Status: o.Labels["status"],
		Written: o.CreationTimestamp.UTC(), Mark: markOf(o.Labels, revision), State: o.ResourceVersion, UID: string(o.UID),
	}
	if r.Status == common.StatusUninstalling.String() && o.Labels[labelRemoves] != "true" {
		r.Mark = Mark{} // who uninstalls is not who wrote the record
	}
	if s, err := strconv.ParseInt(o.Labels["modifiedAt"], 10, 64); err == nil {
		r.Written = time.Unix(s, 0).UTC()
	}
	return r, true
}

// recordName is the name of the Secret that holds a revision (helm.sh/helm/v4/pkg/storage makeKey).
func recordName(release string, revision int) string {
	return fmt.Sprintf("sh.helm.release.v1.%s.v%d", release, revision)
}
