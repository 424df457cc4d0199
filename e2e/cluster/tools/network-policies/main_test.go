package main

import (
	"net/http/httptest"
	"testing"
)

func TestHealthSucceedsOnlyWhileRulesAreInForce(t *testing.T) {
	var health health
	status := func(path string) int {
		response := httptest.NewRecorder()
		health.ServeHTTP(response, httptest.NewRequest("GET", path, nil))
		return response.Code
	}
	for _, inForce := range []bool{false, true, false} {
		health.inForce.Store(inForce)
		want := map[bool]int{false: 503, true: 200}[inForce]
		if got := status("/healthz"); got != want {
			t.Errorf("in force: %v: answered %d, not %d", inForce, got, want)
		}
	}
	if got := status("/elsewhere"); got != 404 {
		t.Errorf("another path answered %d", got)
	}
}
