package cluster

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"helm.sh/helm/v4/pkg/release/common"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A build that is killed leaves its release pending, and so does one that is at work. They are told apart by a heartbeat: as long as an
// action runs, it writes its pending record again and again, so that the record's resource version changes. Who waits for it counts the
// time without a change on its own clock; no two clocks are compared. The write is a PUT of the record, which an action may do anyway,
// on the condition that nobody else has written it. An action of less than HeartbeatEvery makes no request for it.
const (
	HeartbeatEvery = 10 * time.Second // between two signs of life
	HeartbeatLost  = 30 * time.Second // without one, the writer of a pending record is dead
)

// annotationHeartbeat is on a pending record: what its writer last wrote as a sign of life, different each time.
const annotationHeartbeat = labelPrefix + "heartbeat"

// beat gives signs of life until the function that it returns is called. When somebody else has written the record, this action was taken for
// dead: lost is called, once, and there are no more signs.
func (s *store) beat(ctx context.Context, every time.Duration, lost func(error)) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx)) // an action that leaves things in order after its time is alive
	if every == 0 {
		every = HeartbeatEvery
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if err := s.secrets.touch(ctx, every); errors.Is(err, ErrMoved) {
				lost(err)
				return
			}
		}
	}()
	return func() {
		cancel()
		<-ended
	}
}

// touch writes the record that was created here once more, if it is still pending.
func (f *fenced) touch(ctx context.Context, limit time.Duration) error {
	f.writing.Lock()
	defer f.writing.Unlock()
	if f.own == nil || !isPending(common.Status(f.own.Labels["status"])) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	o, before := f.own.DeepCopy(), f.sign
	f.sign = rand.Text()
	o.Annotations = map[string]string{annotationHeartbeat: f.sign}
	_, err := f.replace(ctx, o, before, metav1.UpdateOptions{})
	return err
}

// replace writes a Secret in the state in which it was seen last. A sign of life whose answer was lost is our own write all the same: the
// state that it made counts as seen.
func (f *fenced) replace(ctx context.Context, o *corev1.Secret, sign string, opts metav1.UpdateOptions) (*corev1.Secret, error) {
	put := func() (*corev1.Secret, error) {
		o.ResourceVersion = f.version(o.Name)
		return f.saw(f.SecretInterface.Update(ctx, o, opts))
	}
	done, err := put()
	if apierrors.IsConflict(err) && sign != "" && f.own != nil && f.own.Name == o.Name {
		if is, getErr := f.SecretInterface.Get(ctx, o.Name, metav1.GetOptions{}); getErr == nil && is.Annotations[annotationHeartbeat] == sign {
			_, _ = f.saw(is, nil)
			done, err = put()
		}
	}
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("%w: %w", ErrMoved, err)
	}
	if err == nil && f.own != nil && f.own.Name == done.Name {
		f.own = done
	}
	return done, err
}
