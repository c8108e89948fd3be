package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"sync"

	"github.com/google/go-containerregistry/pkg/name"
)

// Promoted says what [Client.Promote] brought, besides the image.
type Promoted struct {
	Blobs    int      // blobs that the repository did not have
	Attached []string // signatures, attestations and other referrers: cosign's tags, and digests of referrers
}

// Promote brings all that an image consists of from one repository to another, so that [Client.Tag] can put a tag on it there; the image
// itself is left to that. What belongs to the image goes with it: the tags that cosign derives from a digest, and referrers (distribution
// specification 1.1), those of the manifests in an index too. A signature that is verified by its digest stays valid.
//
// In the same registry blobs are mounted: one request for each, and no content moves. From another one they are streamed; a read that
// breaks off goes on where it stopped.
func (c *Client) Promote(ctx context.Context, from string, image Image, to string) (Promoted, error) {
	source, err := c.parse(from)
	if err != nil {
		return Promoted{}, err
	}
	target, err := c.parse(to)
	if err != nil {
		return Promoted{}, err
	}
	p := &promotion{c: c, from: source, to: target, sent: map[string]bool{}, subjects: map[string]bool{}}
	subjects, err := p.tree(ctx, image)
	if err != nil {
		return p.done, err
	}
	for _, subject := range subjects {
		if err := p.attachments(ctx, subject, 0); err != nil {
			return p.done, err
		}
	}
	return p.done, nil
}

// promotion is one run of [Client.Promote].
type promotion struct {
	c        *Client
	from, to name.Repository

	sent     map[string]bool // blobs and manifests that are in the target
	subjects map[string]bool // digests whose attachments were looked for
	done     Promoted
	noAPI    bool // the source has no referrers API
}

// tree brings everything below an image and returns the digests in it, the image's own first.
func (p *promotion) tree(ctx context.Context, image Image) ([]string, error) {
	var (
		digests  []string
		children []Image
		parts    []descriptor
	)
	var walk func(image Image, depth int) error
	walk = func(image Image, depth int) error {
		if depth > depthLimit || len(digests)+len(parts) > partLimit {
			return fmt.Errorf("%s has more than %d parts, or nests indexes more than %d deep", image.Digest, partLimit, depthLimit)
		}
		digests = append(digests, image.Digest)
		m, err := parseManifest(image.Raw, image.MediaType)
		if err != nil {
			return fmt.Errorf("%s of %s: %w", image.Digest, p.from, err)
		}
		for _, d := range m.manifests {
			if slices.Contains(digests, d.Digest) {
				continue
			}
			child, found, err := p.c.Resolve(ctx, p.from.Name(), d.Digest)
			switch {
			case err != nil:
				return err
			case !found:
				return &IncompleteError{p.from.Name(), image.Digest, d.Digest}
			}
			if err := walk(child, depth+1); err != nil {
				return err
			}
			children = append(children, child)
		}
		for _, d := range slices.Concat(m.layers, config(m.config)) {
			if !p.sent[d.Digest] {
				p.sent[d.Digest] = true
				parts = append(parts, d)
			}
		}
		return nil
	}
	if err := walk(image, 0); err != nil {
		return nil, err
	}
	if err := p.blobs(ctx, image.Digest, parts); err != nil {
		return nil, err
	}
	for _, child := range children {
		if err := p.c.putAgain(ctx, p.to, child); err != nil {
			return nil, err
		}
	}
	return digests, nil
}

// blobs brings the blobs of an image, several at once.
func (p *promotion) blobs(ctx context.Context, image string, parts []descriptor) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		workers sync.WaitGroup
		mu      sync.Mutex
		failed  error
		work    = make(chan descriptor)
	)
	for range min(uploads, len(parts)) {
		workers.Go(func() {
			for d := range work {
				err := p.blob(ctx, d)
				if e, ok := errors.AsType[*Error](err); ok && e.Status == http.StatusNotFound && e.Repository == p.from.Name() {
					if len(d.URLs) > 0 { // kept elsewhere, on purpose: there is nothing to bring
						err = nil
					} else {
						err = &IncompleteError{p.from.Name(), image, d.Digest}
					}
				}
				mu.Lock()
				if p.done.Blobs++; err != nil {
					if failed == nil {
						failed = err // the first one counts: it makes the others stop
					}
					cancel()
				}
				mu.Unlock()
			}
		})
	}
	for _, d := range parts {
		work <- d
	}
	close(work)
	workers.Wait()
	return failed
}

func (p *promotion) blob(ctx context.Context, d descriptor) error {
	return (&Repository{p.c, p.to.Name()}).putBlob(ctx, d, &Repository{p.c, p.from.Name()})
}

// mount takes a blob from a repository beside this one (distribution specification, "Mounting a blob from another repository"). A registry
// that will not mount it begins an upload in place of that, into which the content goes.
func (c *Client) mount(ctx context.Context, from, to name.Repository, b blob) error {
	doing := fmt.Sprintf("mounting %s of %s in %s", b.digest, from.Name(), to.Name())
	query := url.Values{"mount": {b.digest}, "from": {from.RepositoryStr()}}
	a, err := c.do(ctx, to, request{
		doing: doing, permission: uploadPermission, method: http.MethodPost, path: "blobs/uploads/?" + query.Encode(), want: http.StatusCreated,
		also: http.StatusAccepted, once: true, limit: errorLimit,
	})
	if err != nil {
		return err
	}
	if a.status == http.StatusAccepted {
		return c.finishBlob(ctx, to, b, a)
	}
	if said := a.header.Get("Docker-Content-Digest"); said != "" && said != b.digest {
		return &DigestError{doing, b.digest, said}
	}
	return nil
}

// cosignSuffixes are the ends of the tags that cosign derives from a digest: sha256-<hex> and one of these.
var cosignSuffixes = []string{".sig", ".att", ".sbom"}

const attachmentDepth = 3 // a signature of an attestation of an image

// attachments brings what belongs to a digest.
func (p *promotion) attachments(ctx context.Context, subject string, depth int) error {
	if p.subjects[subject] || depth > attachmentDepth {
		return nil
	}
	p.subjects[subject] = true
	base := "sha256-" + hexOf(subject)
	var (
		asked     sync.WaitGroup
		tagged    = make([]Image, len(cosignSuffixes))
		there     = make([]bool, len(cosignSuffixes))
		errs      = make([]error, len(cosignSuffixes)+1)
		referrers []descriptor
	)
	for i, suffix := range cosignSuffixes {
		asked.Go(func() { tagged[i], there[i], errs[i] = p.c.Resolve(ctx, p.from.Name(), base+suffix) })
	}
	asked.Go(func() { referrers, errs[len(errs)-1] = p.referrers(ctx, subject) })
	asked.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	for i, suffix := range cosignSuffixes {
		if !there[i] {
			continue
		}
		if err := p.cosign(ctx, base+suffix, tagged[i]); err != nil {
			return err
		}
	}
	return p.attach(ctx, subject, referrers, depth)
}

// cosign brings what is under a tag of cosign's. These tags do move, since a second signature is added to the first; one that is in the
// target with other content was made there and stays.
func (p *promotion) cosign(ctx context.Context, tag string, image Image) error {
	if _, err := p.tree(ctx, image); err != nil {
		return err
	}
	switch _, err := p.c.write(ctx, p.to.Name(), tag, image, false); {
	case errors.As(err, new(*TagTakenError)), errors.As(err, new(*MovedError)):
		p.c.notice(fmt.Sprintf("%s has another %s than %s: it is left as it is", p.to.Name(), tag, p.from.Name()))
	case err != nil:
		return err
	default:
		p.done.Attached = append(p.done.Attached, tag)
	}
	return nil
}

// referrers lists what refers to a digest: by the API, or where there is none, by the tag that stands in for it.
func (p *promotion) referrers(ctx context.Context, subject string) ([]descriptor, error) {
	if !p.noAPI {
		list, api, err := p.c.referrers(ctx, p.from, subject)
		if err != nil || api {
			return list, err
		}
		p.noAPI = true
	}
	image, found, err := p.c.Resolve(ctx, p.from.Name(), referrersTag(subject))
	if err != nil || !found || !isIndex(image.MediaType) {
		return nil, err
	}
	index, err := parseManifest(image.Raw, image.MediaType)
	return index.manifests, err
}

// attach brings referrers, with what refers to them.
func (p *promotion) attach(ctx context.Context, subject string, referrers []descriptor, depth int) error {
	var unlisted []string // the target will not list these by itself
	for _, d := range referrers {
		image, found, err := p.c.Resolve(ctx, p.from.Name(), d.Digest)
		if err != nil {
			return err
		}
		if !found { // lists of referrers may name what was deleted hours ago
			p.c.notice(fmt.Sprintf("%s lists %s, which is not there: it is skipped", p.from.Name(), d.Digest))
			continue
		}
		if _, err := p.tree(ctx, image); err != nil {
			return err
		}
		if err := p.attachments(ctx, d.Digest, depth+1); err != nil {
			return err
		}
		listed, err := p.c.putReferrer(ctx, p.to, image)
		if err != nil {
			return err
		}
		if !listed {
			unlisted = append(unlisted, d.Digest)
		}
		p.done.Attached = append(p.done.Attached, d.Digest)
	}
	if len(unlisted) == 0 {
		return nil
	}
	return p.c.listReferrers(ctx, p.to, subject, unlisted)
}

// PutUntagged writes the image's own manifest under its digest, so that others can put a tag on it.
func (c *Client) PutUntagged(ctx context.Context, repository string, image Image) error {
	repo, err := c.parse(repository)
	if err != nil {
		return err
	}
	return c.putAgain(ctx, repo, image)
}

// putAgain writes a manifest under its digest, which can be repeated.
func (c *Client) putAgain(ctx context.Context, repo name.Repository, image Image) error {
	return c.putAs(ctx, repo, image.Digest, image)
}

func (c *Client) putAs(ctx context.Context, repo name.Repository, reference string, image Image) error {
	for wait := c.patience(); ; {
		err := c.put(ctx, repo, reference, image)
		if err == nil || !temporary(err) || !wait.next(ctx, err) {
			return err
		}
	}
}

// IncompleteError says that a repository lacks a part of an image.
type IncompleteError struct{ Repository, Image, Part string }

// Error names the image and the part.
func (e *IncompleteError) Error() string {
	return fmt.Sprintf("%s has the image %s and lacks its part %s", e.Repository, e.Image, e.Part)
}
