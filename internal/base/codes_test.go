package base_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/distributedcache/cache/internal/base"
)

// TestCodesGolden: codes are on the wire between nodes of different releases.
func TestCodesGolden(t *testing.T) {
	golden := map[base.Code]error{
		1: base.ErrNotFound, 2: base.ErrVersionMismatch, 3: base.ErrConflict, 4: base.ErrRequestReused,
		5: base.ErrUnauthenticated, 6: base.ErrPermission, 7: base.ErrUnavailable, 8: base.ErrIndeterminate,
		9: base.ErrOverloaded, 10: base.ErrQuota, 11: base.ErrNoSpace, 12: base.ErrTooLarge, 13: base.ErrCorrupt,
		14: base.ErrInvalid, 15: base.ErrClosed, 16: base.ErrAuditUnavailable, 17: base.ErrInUse,
	}
	for code, sentinel := range golden {
		if code.Err() != sentinel || base.CodeOf(fmt.Errorf("x: %w", sentinel)) != code {
			t.Errorf("code %d: %v, code of %v is %d", code, code.Err(), sentinel, base.CodeOf(sentinel))
		}
	}
	for code := base.Code(0); ; code++ {
		if golden[code] == nil && code.Err() != base.ErrUnavailable {
			t.Errorf("unknown code %d is %v", code, code.Err())
		}
		if code == 255 {
			break
		}
	}
	if base.CodeOf(nil) != 0 || base.CodeOf(errors.New("x")) != 0 {
		t.Error("an error without a sentinel has a code")
	}
	if base.CodeOf(fmt.Errorf("%w: %w", base.ErrNotFound, base.ErrIndeterminate)) != base.CodeIndeterminate {
		t.Error("an unknown outcome got lost")
	}
}

// TestEverySentinelHasACode reads the list of sentinels from their source.
func TestEverySentinelHasACode(t *testing.T) {
	source, err := os.ReadFile("errors.go")
	if err != nil {
		t.Fatal(err)
	}
	declared := bytes.Count(source, []byte(" = errors.New("))
	if declared != int(base.CodeInUse) {
		t.Errorf("%d sentinels, %d codes", declared, base.CodeInUse)
	}
}

type detailed struct{ kind uint8 }

func (d detailed) Error() string                { return "see details" }
func (d detailed) Is(target error) bool         { return target == base.ErrUnavailable }
func (d detailed) WireDetails() (uint8, []byte) { return d.kind, []byte("more") }

// wireErrors are the errors of the golden files.
func wireErrors() map[string]error {
	id := base.RequestID{1, 2, 3, 15: 16}
	return map[string]error{
		"plain":    base.ErrNotFound,
		"foreign":  errors.New("something else"),
		"wrapped":  fmt.Errorf("%w: value of 9 bytes", base.ErrTooLarge),
		"error":    &base.Error{Op: "put", Key: base.K("p", "s"), Shard: -1, Node: "n2", Outcome: base.OutcomeNotApplied, RetryAfter: time.Second, RequestID: id, Err: base.ErrOverloaded},
		"version":  &base.Error{Op: "put", Key: base.K("p", "s"), Shard: 3, Outcome: base.OutcomeNotApplied, Err: &base.VersionError{Key: base.K("p", "s"), Want: base.AnyVersion, Have: 7}},
		"versions": &base.VersionError{Key: base.K("p", ""), Want: 1, Have: 2},
		"details":  fmt.Errorf("asked: %w", detailed{7}),
		"empty":    &base.Error{Op: "x"},
	}
}

func TestErrorGolden(t *testing.T) {
	for name, err := range wireErrors() {
		got := base.AppendError(nil, err)
		want, fault := os.ReadFile(filepath.Join("testdata", "error-"+name+".hex"))
		if fault != nil {
			t.Errorf("%v; the bytes are %x", fault, got)
			continue
		}
		if hex.EncodeToString(got) != strings.TrimSpace(string(want)) {
			t.Errorf("%s: %x, want %s", name, got, want)
		}
	}
}

func TestErrorRoundTrip(t *testing.T) {
	for name, err := range wireErrors() {
		back, fault := base.DecodeError(base.AppendError([]byte{}, err))
		if fault != nil {
			t.Fatal(fault)
		}
		if want := base.CodeOf(err).Err(); !errors.Is(back, want) {
			t.Errorf("%s: %v does not match %v", name, back, want)
		}
		if name != "empty" && back.Error() != err.Error() {
			t.Errorf("%s: %q, want %q", name, back, err)
		}
		var e, eb *base.Error
		if errors.As(err, &e) != errors.As(back, &eb) {
			t.Fatalf("%s: %#v", name, back)
		}
		if e != nil {
			plain, plainBack := *e, *eb
			plain.Err, plainBack.Err = nil, nil
			if plain != plainBack {
				t.Errorf("%s: %+v, want %+v", name, plainBack, plain)
			}
		}
		var v, vb *base.VersionError
		if errors.As(err, &v) != errors.As(back, &vb) || !reflect.DeepEqual(v, vb) {
			t.Errorf("%s: %+v, want %+v", name, vb, v)
		}
		var d, db base.WireDetailer
		if errors.As(err, &d) && (!errors.As(back, &db) || !sameDetails(d, db)) {
			t.Errorf("%s: details are lost: %#v", name, back)
		}
		if again, _ := base.DecodeError(base.AppendError(nil, back)); again.Error() != back.Error() {
			t.Errorf("%s: %v after a second hop", name, again)
		}
	}
}

func sameDetails(a, b base.WireDetailer) bool {
	ka, da := a.WireDetails()
	kb, db := b.WireDetails()
	return ka == kb && bytes.Equal(da, db)
}

func TestErrorBounds(t *testing.T) {
	long := strings.Repeat("é", 100_000)
	err := &base.Error{Op: long, Node: long, Err: errors.New(long)}
	if n := len(base.AppendError(nil, err)); n > 2000 {
		t.Errorf("%d bytes", n)
	}
	if _, fault := base.DecodeError(base.AppendError(nil, err)); fault != nil {
		t.Error(fault)
	}
}

func FuzzDecodeError(f *testing.F) {
	for _, err := range wireErrors() {
		f.Add(base.AppendError(nil, err))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		err, fault := base.DecodeError(data)
		if (err == nil) == (fault == nil) {
			t.Fatalf("%v, %v", err, fault)
		}
		if fault != nil {
			if !errors.Is(fault, base.ErrInvalid) {
				t.Fatal(fault)
			}
			return
		}
		back, fault := base.DecodeError(base.AppendError(nil, err))
		if fault != nil || base.CodeOf(back) != base.CodeOf(err) {
			t.Fatalf("%v -> %v, %v", err, back, fault)
		}
	})
}
