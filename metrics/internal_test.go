package metrics

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/distributedcache/cache/internal/base"
)

func TestBucketBounds(t *testing.T) {
	if bucketOf(0) != 0 || bucketOf(-1) != 0 || bucketOf(1<<62) != numBuckets-1 {
		t.Fatal("the ends are not in the end buckets")
	}
	for i := range numBuckets - 1 {
		upper := upperBound(i)
		if got := bucketOf(upper); got != i {
			t.Fatalf("upper bound %d of bucket %d is in bucket %d", upper, i, got)
		}
		if got := bucketOf(upper + 1); got != i+1 {
			t.Fatalf("%d, after bucket %d, is in bucket %d", upper+1, i, got)
		}
	}
}

func TestClassifyKnowsEverySentinel(t *testing.T) {
	sentinels := map[error]outcome{
		nil:                         outcomeOK,
		base.ErrNotFound:            outcomeNotFound,
		base.ErrVersionMismatch:     outcomeVersionMismatch,
		base.ErrConflict:            outcomeConflict,
		base.ErrRequestReused:       outcomeRequestReused,
		base.ErrUnauthenticated:     outcomeUnauthenticated,
		base.ErrPermission:          outcomePermission,
		base.ErrUnavailable:         outcomeUnavailable,
		base.ErrIndeterminate:       outcomeIndeterminate,
		base.ErrOverloaded:          outcomeOverloaded,
		base.ErrQuota:               outcomeQuota,
		base.ErrNoSpace:             outcomeNoSpace,
		base.ErrTooLarge:            outcomeTooLarge,
		base.ErrCorrupt:             outcomeCorrupt,
		base.ErrInvalid:             outcomeInvalid,
		base.ErrClosed:              outcomeClosed,
		context.Canceled:            outcomeCanceled,
		context.DeadlineExceeded:    outcomeUnavailable,
		errors.New("anything else"): outcomeOther,
	}
	seen := map[string]bool{}
	for err, want := range sentinels {
		wrapped := err
		if err != nil {
			wrapped = &base.Error{Op: "get", Err: fmt.Errorf("%w: why", err)}
		}
		if got := classify(wrapped); got != want {
			t.Errorf("%v: %s, want %s", err, outcomeNames()[got], outcomeNames()[want])
		}
		seen[outcomeNames()[want]] = true
	}
	if len(seen) != int(numOutcomes) {
		t.Errorf("%d names for %d outcomes", len(seen), numOutcomes)
	}
	both := fmt.Errorf("%w: %w", base.ErrIndeterminate, context.DeadlineExceeded)
	if classify(both) != outcomeIndeterminate {
		t.Error("the context error wins over what the cache says")
	}
}

func TestOpNames(t *testing.T) {
	seen := map[string]bool{}
	for op := range numOps {
		seen[op.String()] = true
	}
	if len(seen) != int(numOps) || seen["unknown"] || numOps.String() != "unknown" {
		t.Errorf("names: %v", seen)
	}
}

// TestFieldsCoverStats sets each number of base.Stats in turn and wants one
// metric to change.
func TestFieldsCoverStats(t *testing.T) {
	covered := 0
	var visit func(root *base.Stats, v reflect.Value, path string)
	visit = func(root *base.Stats, v reflect.Value, path string) {
		for i := range v.NumField() {
			f, name := v.Field(i), path+v.Type().Field(i).Name
			switch {
			case f.Kind() == reflect.Struct:
				visit(root, f, name+".")
			case f.CanInt():
				f.SetInt(int64(time.Hour))
				changed := 0
				for _, field := range fields() {
					if field.value(root) != 0 {
						changed++
					}
				}
				if changed != 1 {
					t.Errorf("%s is shown by %d metrics", name, changed)
				}
				covered++
				f.SetInt(0)
			}
		}
	}
	var s base.Stats
	visit(&s, reflect.ValueOf(&s).Elem(), "")
	if covered != len(fields()) {
		t.Errorf("%d metrics for %d numbers", len(fields()), covered)
	}
}

func TestStripeCount(t *testing.T) {
	for procs, want := range map[int]int{0: 1, 1: 1, 2: 2, 3: 4, 8: 8, 9: 16, 500: 16} {
		if got := stripeCount(procs); got != want {
			t.Errorf("%d stripes for %d processors, want %d", got, procs, want)
		}
	}
}
