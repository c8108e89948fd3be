package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	chartcommon "helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/release"
	"helm.sh/helm/v4/pkg/release/common"
	releasev1 "helm.sh/helm/v4/pkg/release/v1"
	"helm.sh/helm/v4/pkg/storage/driver"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
)

// ErrMoved says that another writer changed the release after it was read: nothing of this build's was written over it.
var ErrMoved = errors.New("another writer changed the release meanwhile")

// store is the storage driver of one action on one release. Helm's own reads every revision in full three or four times in each upgrade,
// charts and values included; this one lists metadata and reads in full only what an action looks into: the newest match. It also fences:
// the new revision must follow the one that was planned on, and a record is replaced only as it was read.
type store struct {
	*driver.Secrets
	cluster   *Cluster
	namespace string
	secrets   *fenced
	after     int  // the newest revision when the action was planned; the action must write the next one
	mark      Mark // goes onto the record that the action writes
	claim     *claim
	rendered  func(next *releasev1.Release, known []*releasev1.Release) // see Release.rendered: nothing is written

	mu      sync.Mutex
	foreign bool                                         // the newest revision, or the deployed one, is somebody else's
	written int                                          // the revision that the action has written; 0: none yet
	read    map[string]*releasev1.Release                // by name and resource version of the Secret
	lists   map[string]*metav1.PartialObjectMetadataList // by selector
}

func (c *Cluster) store(key Key, after int, mark Mark) *store {
	f := &fenced{SecretInterface: c.core.CoreV1().Secrets(key.Namespace), seen: map[string]string{}}
	return &store{
		Secrets: driver.NewSecrets(f), cluster: c, namespace: key.Namespace, secrets: f, after: after, mark: mark,
		read: map[string]*releasev1.Release{}, lists: map[string]*metav1.PartialObjectMetadataList{},
	}
}

// revision is the revision that the action wrote, 0 when it failed before.
func (s *store) revision() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.written
}

// Create implements driver.Creator: it is where an action begins to change the cluster.
func (s *store) Create(key string, r release.Releaser) error {
	rel, ok := r.(*releasev1.Release)
	if !ok {
		return fmt.Errorf("unexpected record %T", r)
	}
	if rel.Version != s.after+1 {
		return fmt.Errorf("revision %d was planned on, %d is the newest now: %w", s.after, rel.Version-1, ErrMoved)
	}
	rel.Labels = s.mark.on(rel.Labels, rel.Version)
	if s.rendered != nil {
		s.rendered(rel, s.inFull())
		return errRendered
	}
	if err := s.claim.before(context.Background(), rel, s.manifests(), s.foreign); err != nil {
		return err
	}
	s.forget()
	err := s.Secrets.Create(key, rel)
	if errors.Is(err, driver.ErrReleaseExists) {
		return fmt.Errorf("revision %d was written by somebody else: %w", rel.Version, ErrMoved)
	}
	if err == nil {
		s.mu.Lock()
		s.written = rel.Version
		s.mu.Unlock()
	}
	return explainSize(rel, err)
}

// explainSize says what to do about a record that the API server does not take because it is too large: charts are stored whole, and files that no
// template reads are what usually makes them so.
func explainSize(rel *releasev1.Release, err error) error {
	tooLarge := apierrors.IsInvalid(err) && strings.Contains(err.Error(), "Too long") || apierrors.IsRequestEntityTooLargeError(err)
	if !tooLarge || rel.Chart == nil {
		return err
	}
	files := slices.Clone(rel.Chart.Files)
	files = append(files, rel.Chart.Templates...)
	slices.SortFunc(files, func(a, b *chartcommon.File) int { return len(b.Data) - len(a.Data) })
	var largest []string
	for _, f := range files[:min(3, len(files))] {
		largest = append(largest, fmt.Sprintf("%s (%d KB)", f.Name, (len(f.Data)+999)/1000))
	}
	return fmt.Errorf("the release record would be larger than the 1 MiB that a Secret can hold, compressed: name what the templates do not read in the chart's .helmignore; "+
		"the largest files are %s: %w", strings.Join(largest, ", "), err)
}

// applyMethod is how the objects of a revision were applied: ssa, csa, or "" for one from before there was a choice.
func (s *store) applyMethod(name string, revision int) (string, error) {
	r, err := s.record(recordName(name, revision))
	if err != nil {
		return "", s.cluster.explain(err)
	}
	return r.ApplyMethod, nil
}

// record reads the whole record under a name.
func (s *store) record(name string) (*releasev1.Release, error) {
	got, err := s.Get(name)
	if err != nil {
		return nil, err
	}
	rel, ok := got.(*releasev1.Release)
	if !ok {
		return nil, fmt.Errorf("unexpected record %T", got)
	}
	return rel, nil
}

// inFull are the revisions that were read in full.
func (s *store) inFull() []*releasev1.Release {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.read))
}

// manifests are those of the revisions that were read in full.
func (s *store) manifests() []string {
	var list []string
	for _, rel := range s.inFull() {
		list = append(list, rel.Manifest)
	}
	return list
}

// Update implements driver.Updator.
func (s *store) Update(key string, r release.Releaser) error {
	if s.rendered != nil {
		return nil
	}
	rel, ok := r.(*releasev1.Release)
	if !ok {
		return fmt.Errorf("unexpected record %T", r)
	}
	if rel.Chart == nil && rel.Manifest == "" { // a record of which only the metadata was read: take its status over, not its emptiness
		whole, err := s.record(key)
		if err != nil {
			return err
		}
		whole.Info.Status = rel.Info.Status
		r = whole
	}
	s.forget()
	return s.Secrets.Update(key, r)
}

// Query implements driver.Queryor: the records that match, the newest of them in full, and every one that counts as deployed, since
// those are written back.
func (s *store) Query(set map[string]string) ([]release.Releaser, error) {
	list, err := s.list(labels.Set(set).String())
	if err != nil {
		return nil, s.cluster.explain(err)
	}
	type found struct {
		Record
		object *metav1.PartialObjectMetadata
	}
	var records []found
	for i := range list.Items {
		if r, ok := recordOf(&list.Items[i]); ok {
			records = append(records, found{r, &list.Items[i]})
		}
	}
	slices.SortFunc(records, func(a, b found) int { return a.Revision - b.Revision })
	newest := 0
	if len(records) > 0 {
		newest = records[len(records)-1].Revision
	}
	if _, some := set["status"]; !some && s.revision() == 0 && newest != s.after { // before Helm draws its own conclusions from it
		return nil, fmt.Errorf("revision %d was planned on, %d is the newest now: %w", s.after, newest, ErrMoved)
	}
	if newest == 0 {
		return nil, driver.ErrReleaseNotFound
	}
	var out []release.Releaser
	for i, r := range records {
		if i < len(records)-1 && !r.Deployed() {
			out = append(out, &releasev1.Release{
				Name: r.Name, Namespace: s.namespace, Version: r.Revision, Labels: withoutSystemLabels(r.object.Labels),
				Info: &releasev1.Info{Status: common.Status(r.Status)},
			})
			continue
		}
		rel, err := s.full(r.object)
		if errors.Is(err, driver.ErrReleaseNotFound) {
			continue // pruned between list and read
		}
		if err != nil {
			return nil, err
		}
		s.foreign = s.foreign || r.Mark == Mark{}
		out = append(out, rel)
	}
	if len(out) == 0 {
		return nil, driver.ErrReleaseNotFound
	}
	return out, nil
}

// list lists the metadata of records, once until something is written: Helm asks for the same list to find the newest revision and, a moment later,
// to prune the history. That nobody else wrote in between is not what it is for; the name of the record that is created sees to that.
func (s *store) list(selector string) (*metav1.PartialObjectMetadataList, error) {
	s.mu.Lock()
	list := s.lists[selector]
	s.mu.Unlock()
	if list != nil {
		return list, nil
	}
	list, err := s.cluster.meta.Resource(secrets).Namespace(s.namespace).List(context.Background(), metav1.ListOptions{LabelSelector: selector})
	if err == nil {
		s.mu.Lock()
		s.lists[selector] = list
		s.mu.Unlock()
	}
	return list, err
}

// forget drops the lists, since something is about to be written.
func (s *store) forget() {
	s.mu.Lock()
	clear(s.lists)
	s.mu.Unlock()
}

// full reads one record, once for each state of it.
func (s *store) full(o *metav1.PartialObjectMetadata) (*releasev1.Release, error) {
	state := o.Name + "@" + o.ResourceVersion
	s.mu.Lock()
	rel, ok := s.read[state]
	s.mu.Unlock()
	if !ok {
		var err error
		if rel, err = s.record(o.Name); err != nil {
			return nil, err
		}
		s.mu.Lock()
		s.read[state] = rel
		s.mu.Unlock()
	}
	own, info := *rel, *rel.Info // Helm writes into what it gets
	own.Info = &info
	if s.rendered != nil && info.Status.IsPending() {
		info.Status = common.StatusFailed // what Recover would have made of it
	}
	return &own, nil
}

// Delete implements driver.Deletor. Helm reads a record in full before it prunes it and then drops what it read.
func (s *store) Delete(key string) (release.Releaser, error) {
	if s.rendered != nil {
		return nil, nil
	}
	s.forget()
	err := s.secrets.Delete(context.Background(), key, metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) {
		return nil, driver.ErrReleaseNotFound
	}
	return nil, err
}

func withoutSystemLabels(set map[string]string) map[string]string {
	set = maps.Clone(set)
	for _, name := range driver.GetSystemLabels() {
		delete(set, name)
	}
	return set
}

// fenced replaces a Secret only in the state in which it was read or written here. Helm's driver replaces whatever stands there, so that a
// build which was cancelled, and acts a moment longer, could mark a newer build's release as its own.
type fenced struct {
	typedcorev1.SecretInterface
	mu   sync.Mutex
	seen map[string]string // resource version by name

	writing sync.Mutex     // one write at a time: the heartbeat's, or the action's
	own     *corev1.Secret // the record that was created here, as it stands
	sign    string         // what the heartbeat tried to write last
}

func (f *fenced) saw(o *corev1.Secret, err error) (*corev1.Secret, error) {
	if err == nil {
		f.mu.Lock()
		f.seen[o.Name] = o.ResourceVersion
		f.mu.Unlock()
	}
	return o, err
}

func (f *fenced) version(name string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.seen[name]
}

// Get implements SecretInterface.
func (f *fenced) Get(ctx context.Context, name string, opts metav1.GetOptions) (*corev1.Secret, error) {
	return f.saw(f.SecretInterface.Get(ctx, name, opts))
}

// Create implements SecretInterface.
func (f *fenced) Create(ctx context.Context, o *corev1.Secret, opts metav1.CreateOptions) (*corev1.Secret, error) {
	f.writing.Lock()
	defer f.writing.Unlock()
	o, err := f.saw(f.SecretInterface.Create(ctx, o, opts))
	if err == nil {
		f.own = o
	}
	return o, err
}

// Update implements SecretInterface.
func (f *fenced) Update(ctx context.Context, o *corev1.Secret, opts metav1.UpdateOptions) (*corev1.Secret, error) {
	f.writing.Lock()
	defer f.writing.Unlock()
	return f.replace(ctx, o, f.sign, opts)
}

// Delete implements SecretInterface. The record that an uninstall has taken goes only as it stands here.
func (f *fenced) Delete(ctx context.Context, name string, opts metav1.DeleteOptions) error {
	f.writing.Lock()
	defer f.writing.Unlock()
	if f.own == nil || f.own.Name != name {
		return f.SecretInterface.Delete(ctx, name, opts)
	}
	version := f.version(name)
	opts.Preconditions = &metav1.Preconditions{ResourceVersion: &version}
	err := f.SecretInterface.Delete(ctx, name, opts)
	if apierrors.IsConflict(err) {
		return fmt.Errorf("%w: %w", ErrMoved, err)
	}
	if err == nil {
		f.own = nil // no more signs of life
	}
	return err
}
