package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
)

func TestTour(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	var out bytes.Buffer
	if err := run(t.Context(), &out, ""); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	if !strings.Contains(out.String(), "Ann has 65, Bob has 50") {
		t.Errorf("the tour did not end as it should:\n%s", out.String())
	}
	left, err := os.ReadDir(os.TempDir())
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// A directory that is named is kept, and the tour can be taken again in it.
func TestTourInANamedDirectory(t *testing.T) {
	dir := t.TempDir()
	for range 2 {
		if err := run(t.Context(), new(bytes.Buffer), dir); err != nil {
			t.Fatal(err)
		}
	}
}
