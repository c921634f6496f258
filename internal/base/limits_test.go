package base_test

import (
	"errors"
	"testing"
	"time"

	"github.com/distributedcache/cache/internal/base"
)

func TestWriteValidate(t *testing.T) {
	limits := base.Limits{MaxValueBytes: 4, MaxBatchOps: 2, MaxBatchBytes: 12}
	k := base.K("p", "s")
	for name, c := range map[string]struct {
		w    base.Write
		want error
	}{
		"put":          {base.Write{Key: k, Value: []byte("1234"), TTL: time.Hour}, nil},
		"delete":       {base.Write{Key: k, Kind: base.WriteDelete}, nil},
		"check":        {base.Write{Key: k, Kind: base.WriteCheck}, nil},
		"no key":       {base.Write{}, base.ErrInvalid},
		"kind":         {base.Write{Key: k, Kind: 77}, base.ErrInvalid},
		"value":        {base.Write{Key: k, Value: []byte("12345")}, base.ErrTooLarge},
		"negative ttl": {base.Write{Key: k, TTL: -1}, base.ErrInvalid},
		"long ttl":     {base.Write{Key: k, TTL: 1 << 62}, base.ErrInvalid},
		"delete ttl":   {base.Write{Key: k, Kind: base.WriteDelete, TTL: 1}, base.ErrInvalid},
	} {
		if err := c.w.Validate(limits); !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func TestCheckWrites(t *testing.T) {
	limits := base.Limits{MaxValueBytes: 8, MaxBatchOps: 2, MaxBatchBytes: 12}
	put := func(s, v string) base.Write { return base.Write{Key: base.K("p", s), Value: []byte(v)} }
	check := base.Write{Key: base.K("p", "a"), Kind: base.WriteCheck}
	for name, c := range map[string]struct {
		ws   []base.Write
		want error
	}{
		"none":            {nil, base.ErrInvalid},
		"two":             {[]base.Write{put("a", "1"), put("b", "2")}, nil},
		"three":           {[]base.Write{put("a", "1"), put("b", "2"), put("c", "3")}, base.ErrTooLarge},
		"bytes":           {[]base.Write{put("a", "12345"), put("b", "12345")}, base.ErrTooLarge},
		"just fits":       {[]base.Write{put("a", "1234"), put("b", "1234")}, nil},
		"twice":           {[]base.Write{put("a", "1"), put("a", "2")}, base.ErrInvalid},
		"check and write": {[]base.Write{check, put("a", "1")}, nil},
		"bad one":         {[]base.Write{put("a", "1"), {}}, base.ErrInvalid},
	} {
		if err := limits.CheckWrites(c.ws); !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	k := base.K("p", "s")
	if limits.CheckKeys([]base.Key{k, k}) != nil || !errors.Is(limits.CheckKeys([]base.Key{k, k, k}), base.ErrTooLarge) ||
		!errors.Is(limits.CheckKeys([]base.Key{{}}), base.ErrInvalid) {
		t.Error("CheckKeys")
	}
}

func TestDefaultLimitsAreWithinTheHardOnes(t *testing.T) {
	l := base.DefaultLimits()
	if l.MaxValueBytes > base.HardMaxValueBytes || l.MaxBatchOps > base.HardMaxBatchOps || l.MaxBatchBytes > base.HardMaxBatchBytes {
		t.Errorf("%+v", l)
	}
}
