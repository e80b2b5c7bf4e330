package checks

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Mender is an error that knows how it is mended.
type Mender interface {
	error
	Mend() string
}

// Obstacle puts what kept a check from running into a learner's words: what was in the
// way, and what to do about it.
func Obstacle(err error) (why, next string) {
	var mender Mender
	var urlErr *url.Error
	var netErr net.Error
	switch {
	case errors.As(err, &mender):
		return err.Error(), mender.Mend()
	case errors.Is(err, ErrUnknownKind):
		return err.Error() + ".", "See with `ropes status` whether all of the cluster is installed."
	case apierrors.IsForbidden(err):
		return fmt.Sprintf("Your kubeconfig may not do this: %v.", err), "Use a context with the rights of a cluster administrator."
	case apierrors.IsUnauthorized(err):
		return fmt.Sprintf("The API server does not accept your credentials: %v.", err), "Run `ropes up` to renew the kubeconfig."
	case errors.As(err, &urlErr) && !urlErr.Timeout():
		return fmt.Sprintf("The API server does not answer: %v.", urlErr.Err), "See with `ropes status` whether the cluster runs; `ropes up` starts it again."
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &netErr) && netErr.Timeout(), apierrors.IsTimeout(err), apierrors.IsServerTimeout(err):
		return fmt.Sprintf("No answer in time: %v.", err), "Try again; `ropes status` shows whether the cluster is well."
	}
	return err.Error() + ".", "Try again; if it stays, `ropes status` and `ropes logs` show more."
}
