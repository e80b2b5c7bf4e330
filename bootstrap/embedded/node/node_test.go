package node

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCNIConfigChainsPtpAndPortmap(t *testing.T) {
	var got struct {
		CNIVersion string
		Plugins    []struct {
			Type string
			IPAM struct {
				Type   string
				Ranges [][]struct{ Subnet string }
			}
			Capabilities map[string]bool
		}
	}
	err := json.Unmarshal([]byte(cniConfig(&Config{PodCIDR: "10.244.7.0/24"})), &got)
	if err != nil {
		t.Fatal(err)
	}
	var types []string
	for _, p := range got.Plugins {
		types = append(types, p.Type)
	}
	if diff := cmp.Diff([]string{"ptp", "portmap"}, types); diff != "" {
		t.Errorf("plugins (-want +got):\n%s", diff)
	}
	if got.Plugins[0].IPAM.Ranges[0][0].Subnet != "10.244.7.0/24" {
		t.Errorf("pods of the node get %v, want its pod CIDR", got.Plugins[0].IPAM.Ranges)
	}
	if !got.Plugins[1].Capabilities["portMappings"] {
		t.Error("portmap does not take port mappings")
	}
}
