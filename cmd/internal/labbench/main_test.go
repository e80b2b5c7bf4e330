package main

import "testing"

func TestMedian(t *testing.T) {
	for _, tt := range []struct {
		in   []float64
		want float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1, 5}, 5}, {[]float64{4, 1, 3, 2}, 2.5}} {
		if got := median(tt.in); got != tt.want {
			t.Errorf("median of %v is %v, want %v", tt.in, got, tt.want)
		}
	}
}

func TestPhaseLine(t *testing.T) {
	m := phaseLine.FindStringSubmatch("install Istio ... done (12.7s)")
	if len(m) != 3 || m[1] != "install Istio" || m[2] != "12.7" {
		t.Errorf("got %q", m)
	}
}
