package istio

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/kubernetes"
)

const (
	// classesAnnotation, on the system namespace, names the gateway classes that were there
	// before Istio, since istiod makes its own without a label and leaves them behind.
	classesAnnotation = "ropes.dev/gateway-classes-before"
	classesPath       = "/apis/gateway.networking.k8s.io/v1/gatewayclasses"
	// istioControllers is how the controllers of istiod's classes begin, from Istio's
	// pkg/config/constants.
	istioControllers = "istio.io/"
)

// gatewayClasses lists the names of Istio's gateway classes, none where the cluster has no Gateway API.
func gatewayClasses(ctx context.Context, client kubernetes.Interface) ([]string, error) {
	rest := client.Discovery().RESTClient()
	if rest == nil {
		return nil, nil
	}
	data, err := rest.Get().AbsPath(classesPath).DoRaw(ctx)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list gateway classes: %w", err)
	}
	var list struct {
		Items []struct {
			Metadata struct{ Name string }
			Spec     struct{ ControllerName string }
		}
	}
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("list gateway classes: %w", err)
	}
	var names []string
	for _, c := range list.Items {
		if strings.HasPrefix(c.Spec.ControllerName, istioControllers) {
			names = append(names, c.Metadata.Name)
		}
	}
	return names, nil
}

// removeGatewayClasses removes Istio's gateway classes but those that were there before.
func removeGatewayClasses(ctx context.Context, client kubernetes.Interface, before []string) error {
	now, err := gatewayClasses(ctx, client)
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range now {
		if slices.Contains(before, name) {
			continue
		}
		err := client.Discovery().RESTClient().Delete().AbsPath(classesPath, name).Do(ctx).Error()
		if err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("delete gateway class %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}
