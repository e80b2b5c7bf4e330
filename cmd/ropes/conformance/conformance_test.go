//go:build conformance

package conformance

import (
	_ "embed"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"istio.io/istio/pilot/pkg/config/kube/gateway"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/gateway-api/apis/v1alpha2"
	"sigs.k8s.io/gateway-api/apis/v1alpha3"
	"sigs.k8s.io/gateway-api/apis/v1beta1"
	xv1alpha1 "sigs.k8s.io/gateway-api/apisx/v1alpha1"
	upstream "sigs.k8s.io/gateway-api/conformance"
	"sigs.k8s.io/gateway-api/conformance/tests"
	"sigs.k8s.io/gateway-api/conformance/utils/config"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
	"sigs.k8s.io/gateway-api/pkg/features"
	"sigs.k8s.io/yaml"
)

//go:embed exceptions.yaml
var exceptionsFile []byte

// exceptions is what exceptions.yaml says.
type exceptions struct {
	Profiles map[suite.ConformanceProfileName]string `json:"profiles"`
	Tests    map[string]string                       `json:"tests"`
}

var profiles = []suite.ConformanceProfileName{
	suite.GatewayHTTPConformanceProfileName,
	suite.GatewayTLSConformanceProfileName,
	suite.GatewayGRPCConformanceProfileName,
	suite.GatewayTCPConformanceProfileName,
}

func TestGatewayAPI(t *testing.T) {
	var except exceptions
	if err := yaml.UnmarshalStrict(exceptionsFile, &except); err != nil {
		t.Fatalf("exceptions.yaml: %v", err)
	}
	c := bringUp(t)
	manifests := withOurCoreDNS{&upstream.Manifests}
	offerImages(t, c.dir, manifests)
	scheme := newScheme(t)
	kube, err := client.New(c.config, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	clientset, err := kubernetes.NewForConfig(c.config)
	if err != nil {
		t.Fatal(err)
	}
	installExperimental(t, kube)

	hostname := gatewayv1.HostnameAddressType
	run, err := suite.NewConformanceTestSuite(suite.ConformanceOptions{
		ConfigurableOptions: suite.ConfigurableOptions{
			GatewayClassName:     "istio",
			CleanupBaseResources: os.Getenv(keepEnv) != "", // else the cluster goes as a whole
			CleanupTestResources: true,
			SupportedFeatures:    claimed(),
			ConformanceProfiles:  profiles,
			SkipTests:            slices.Collect(maps.Keys(except.Tests)),
			// As Istio's own run has them: a Service's name is an address that a gateway can take.
			UsableNetworkAddresses:   []gatewayv1.GatewaySpecAddress{{Value: "infra-backend-v1.gateway-conformance-infra.svc.cluster.local", Type: &hostname}},
			UnusableNetworkAddresses: []gatewayv1.GatewaySpecAddress{{Value: "foo", Type: &hostname}},
			// The suite's own; left out, some of them would be zero.
			TimeoutConfig: config.DefaultTimeoutConfig(),
		},
		Client: kube, ClientOptions: client.Options{Scheme: scheme}, Clientset: clientset, RestConfig: c.config,
		ManifestFS: []fs.FS{manifests},
	})
	if err != nil {
		t.Fatal(err)
	}
	tally := &tally{}
	counted := tally.count(tests.ConformanceTests)
	t.Cleanup(func() { tally.print(t, except) }) // tests that run side by side begin when this function ends
	run.Setup(t, counted)
	if err := run.Run(t, counted); err != nil {
		t.Fatal(err)
	}
}

func newScheme(t *testing.T) *runtime.Scheme {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		clientscheme.AddToScheme, apiextensionsv1.AddToScheme, gatewayv1.Install, v1beta1.Install, v1alpha2.Install, v1alpha3.Install, xv1alpha1.Install,
	} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	return scheme
}

// claimed are the features of gateways that istiod says it supports.
func claimed() []features.FeatureName {
	names := features.SetsToNamesSet(gateway.SupportedFeatures).UnsortedList()
	return slices.DeleteFunc(names, func(n features.FeatureName) bool { return strings.HasPrefix(string(n), "Mesh") })
}

// tally counts what becomes of the tests.
type tally struct {
	mu    sync.Mutex
	all   []suite.ConformanceTest
	ended map[string]bool // name -> passed
}

// alone tells whether a test runs before those that run side by side. It changes an object right after it has made it.
// istiod's status queue keeps the generation that a write was first queued with (pilot/pkg/status/resourcelock.go,
// WorkQueue.Push): a change that finds the first write still queued gets no status, ever.
func alone(test suite.ConformanceTest) bool {
	return strings.HasSuffix(test.ShortName, "ObservedGenerationBump")
}

// count has every test tell the tally of its end. One whose features are not claimed, or that is
// excepted, never begins.
func (a *tally) count(all []suite.ConformanceTest) []suite.ConformanceTest {
	a.all, a.ended = all, map[string]bool{}
	all = slices.Clone(all)
	for i := range all {
		name, test := all[i].ShortName, all[i].Test
		all[i].Parallel = all[i].Parallel && !alone(all[i])
		all[i].Test = func(t *testing.T, s *suite.ConformanceTestSuite) {
			t.Cleanup(func() {
				a.mu.Lock()
				defer a.mu.Unlock()
				if !t.Skipped() {
					a.ended[name] = !t.Failed()
				}
			})
			test(t, s)
		}
	}
	return all
}

// print says what became of them, the figures last.
func (a *tally) print(t *testing.T, except exceptions) {
	t.Helper()
	var passed, failed, skipped int
	for _, test := range a.all {
		switch ok, ended := a.ended[test.ShortName]; {
		case !ended:
			skipped++
			fmt.Printf("skipped %s: %s\n", test.ShortName, except.why(test))
		case ok:
			passed++
		default:
			failed++
			fmt.Printf("failed  %s\n", test.ShortName)
		}
	}
	fmt.Printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped)
	for name := range except.Tests {
		if !slices.ContainsFunc(a.all, func(test suite.ConformanceTest) bool { return test.ShortName == name }) {
			t.Errorf("exceptions.yaml names %s, which is no test of this suite", name)
		}
	}
}

// why tells why a test was not run.
func (e exceptions) why(test suite.ConformanceTest) string {
	if why := e.Tests[test.ShortName]; why != "" {
		return strings.TrimSpace(why)
	}
	claims := features.SetsToNamesSet(gateway.SupportedFeatures)
	var missing []string
	for _, f := range test.Features {
		if !claims.Has(f) {
			missing = append(missing, string(f))
		}
	}
	switch {
	case len(missing) > 0:
		return "istiod does not claim " + strings.Join(missing, ", ")
	case slices.Contains(test.Features, features.SupportMesh):
		return e.Profiles[suite.MeshHTTPConformanceProfileName]
	default:
		return "left out by -run"
	}
}
