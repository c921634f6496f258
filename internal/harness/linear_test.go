package harness

import (
	"errors"
	"testing"
	"time"

	"github.com/distributedcache/cache/internal/base"
)

var testKey = base.K("p", "s")

// at makes an operation on the test key between two moments; end 0 is never.
func at(call, end time.Duration, op Op) Op {
	op.Keys, op.Call, op.Return = []base.Key{testKey}, call, end
	if end == 0 {
		op.Return, op.Outcome = Forever, Unknown
	} else if op.Outcome == "" {
		op.Outcome = OK
	}
	return op
}

func got(value string, v base.Version) Op {
	return Op{Kind: Get, Output: Output{Value: value, Version: v}}
}

func put(value string, v base.Version) Op {
	return Op{Kind: Put, Input: Input{Value: value}, Output: Output{Version: v}}
}

func removed(v base.Version) Op { return Op{Kind: Delete, Output: Output{Version: v}} }

// when gives an operation a condition on the version.
func (o Op) when(v base.Version) Op {
	o.Input.Cond = base.Cond{Kind: base.CondVersion, Version: v}
	return o
}

// present gives an operation the condition that the key is there.
func (o Op) present() Op {
	o.Input.Cond = base.Cond{Kind: base.CondPresent}
	return o
}

// but makes an operation one that was refused because it found v.
func (o Op) but(v base.Version) Op {
	o.Outcome, o.Output = Failed, Output{Version: v, Refused: true}
	return o
}

func (o Op) failed() Op {
	o.Outcome, o.Output = Failed, Output{}
	return o
}

func TestHistories(t *testing.T) {
	for name, c := range map[string]struct {
		legal bool
		ops   History
	}{
		"nothing":               {true, History{}},
		"absent":                {true, History{at(1, 2, got("", 0))}},
		"read what was put":     {true, History{at(1, 2, put("a", 5)), at(3, 4, got("a", 5))}},
		"another value":         {false, History{at(1, 2, put("a", 5)), at(3, 4, got("b", 5))}},
		"another version":       {false, History{at(1, 2, put("a", 5)), at(3, 4, got("a", 6))}},
		"lost":                  {false, History{at(1, 2, put("a", 5)), at(3, 4, got("", 0))}},
		"stale":                 {false, History{at(1, 2, put("a", 5)), at(3, 4, put("b", 6)), at(5, 6, got("a", 5))}},
		"concurrent: old":       {true, History{at(1, 2, put("a", 5)), at(3, 6, put("b", 6)), at(4, 5, got("a", 5))}},
		"concurrent: new":       {true, History{at(1, 2, put("a", 5)), at(3, 6, put("b", 6)), at(4, 5, got("b", 6))}},
		"new, then old":         {false, History{at(1, 2, put("a", 5)), at(3, 9, put("b", 6)), at(4, 5, got("b", 6)), at(6, 7, got("a", 5))}},
		"versions fall":         {false, History{at(1, 2, put("a", 5)), at(3, 4, put("b", 4))}},
		"versions repeat":       {false, History{at(1, 2, put("a", 5)), at(3, 4, put("b", 5))}},
		"concurrent versions":   {true, History{at(1, 9, put("a", 6)), at(2, 8, put("b", 5)), at(10, 11, got("a", 6))}},
		"the lower one stays":   {false, History{at(1, 9, put("a", 6)), at(2, 8, put("b", 5)), at(10, 11, got("b", 5))}},
		"falls after a delete":  {false, History{at(1, 2, put("a", 5)), at(3, 4, removed(5)), at(5, 6, put("b", 5))}},
		"delete":                {true, History{at(1, 2, put("a", 5)), at(3, 4, removed(5)), at(5, 6, got("", 0)), at(7, 8, removed(0))}},
		"delete removed naught": {false, History{at(1, 2, put("a", 5)), at(3, 4, removed(0))}},
		"create":                {true, History{at(1, 2, put("a", 5).when(0)), at(3, 4, put("b", 0).when(0).but(5))}},
		"create over":           {false, History{at(1, 2, put("a", 5)), at(3, 4, put("b", 6).when(0))}},
		"two created":           {false, History{at(1, 4, put("a", 5).when(0)), at(2, 3, put("b", 6).when(0))}},
		"replace":               {true, History{at(1, 2, put("a", 5)), at(3, 4, put("b", 6).when(5))}},
		"replace the wrong":     {false, History{at(1, 2, put("a", 5)), at(3, 4, put("b", 6).when(4))}},
		"refused in vain":       {false, History{at(1, 2, put("a", 5)), at(3, 4, put("b", 0).when(5).but(5))}},
		"refused for another":   {false, History{at(1, 2, put("a", 5)), at(3, 4, put("b", 0).when(4).but(3))}},
		"update":                {true, History{at(1, 2, put("x", 0).present().but(0)), at(3, 4, put("a", 5)), at(5, 6, put("b", 6).present())}},
		"update of naught":      {false, History{at(1, 2, put("a", 5).present())}},
		"delete of the wrong":   {false, History{at(1, 2, put("a", 5)), at(3, 4, removed(5).when(4))}},
		"failed":                {true, History{at(1, 2, put("a", 0).failed()), at(3, 4, got("", 0))}},
		"failed, but applied":   {false, History{at(1, 2, put("a", 0).failed()), at(3, 4, got("a", 5))}},
		"failed delete applied": {false, History{at(1, 2, put("a", 5)), at(3, 4, removed(0).failed()), at(5, 6, got("", 0))}},
		"never written":         {false, History{at(1, 2, got("a", 5))}},
	} {
		t.Run(name, func(t *testing.T) { wantLegal(t, c.ops, c.legal) })
	}
}

func TestHistoriesWithUnknownOutcomes(t *testing.T) {
	for name, c := range map[string]struct {
		legal bool
		ops   History
	}{
		"never":                 {true, History{at(1, 0, put("a", 0)), at(2, 3, got("", 0))}},
		"at once":               {true, History{at(1, 0, put("a", 0)), at(2, 3, got("a", 5))}},
		"later":                 {true, History{at(1, 0, put("a", 0)), at(2, 3, got("", 0)), at(4, 5, got("a", 5))}},
		"read before the call":  {false, History{at(1, 2, got("a", 5)), at(3, 0, put("a", 0))}},
		"twice":                 {false, History{at(1, 0, put("a", 0)), at(2, 3, got("a", 5)), at(4, 5, put("b", 6)), at(6, 7, got("a", 7))}},
		"taken back":            {false, History{at(1, 0, put("a", 0)), at(2, 3, got("a", 5)), at(4, 5, got("", 0))}},
		"overwritten":           {true, History{at(1, 0, put("a", 0)), at(2, 3, put("b", 6)), at(4, 5, got("b", 6))}},
		"two versions":          {false, History{at(1, 0, put("a", 0)), at(2, 3, got("a", 5)), at(4, 5, got("a", 6))}},
		"below what was":        {false, History{at(1, 2, put("a", 5)), at(3, 0, put("b", 0)), at(4, 5, got("b", 4))}},
		"named by a refusal":    {true, History{at(1, 0, put("a", 0)), at(2, 3, put("b", 0).when(0).but(5)), at(4, 5, got("a", 5))}},
		"only by a refusal":     {true, History{at(1, 0, put("a", 0)), at(2, 3, put("b", 0).when(0).but(5))}},
		"named by a delete":     {true, History{at(1, 0, put("a", 0)), at(2, 3, removed(5)), at(4, 5, got("", 0))}},
		"named, then another":   {false, History{at(1, 0, put("a", 0)), at(2, 3, put("b", 0).when(0).but(5)), at(4, 5, got("a", 6))}},
		"delete":                {true, History{at(1, 2, put("a", 5)), at(3, 0, removed(0)), at(4, 5, got("a", 5)), at(6, 7, got("", 0))}},
		"delete comes back":     {false, History{at(1, 2, put("a", 5)), at(3, 0, removed(0)), at(4, 5, got("", 0)), at(6, 7, got("a", 5))}},
		"delete not yet":        {false, History{at(1, 2, put("a", 5)), at(3, 4, got("", 0)), at(5, 0, removed(0))}},
		"condition held":        {true, History{at(1, 2, put("a", 5)), at(3, 0, put("b", 0).when(5)), at(4, 5, got("b", 6))}},
		"condition failed":      {false, History{at(1, 2, put("a", 5)), at(3, 0, put("b", 0).when(4)), at(4, 5, got("b", 6))}},
		"condition over":        {false, History{at(1, 2, put("a", 5)), at(3, 0, removed(0).when(4)), at(4, 5, got("", 0))}},
		"made present":          {true, History{at(1, 0, put("a", 0)), at(2, 3, put("b", 6).present())}},
		"one of two":            {true, History{at(1, 0, put("a", 0)), at(2, 0, put("b", 0)), at(3, 4, got("b", 6)), at(5, 6, got("a", 7))}},
		"order of two":          {false, History{at(1, 0, put("a", 0)), at(2, 0, put("b", 0)), at(3, 4, got("b", 6)), at(5, 6, got("a", 5))}},
		"same value as another": {true, History{at(1, 2, put("a", 5)), at(3, 0, put("a", 0)), at(4, 5, got("a", 5)), at(6, 7, got("a", 6))}},
	} {
		t.Run(name, func(t *testing.T) { wantLegal(t, c.ops, c.legal) })
	}
}

func wantLegal(t *testing.T, h History, legal bool) {
	t.Helper()
	err := CheckLinear(h, LinearConfig{})
	var fault *LinearError
	if legal && err != nil || !legal && !errors.As(err, &fault) {
		t.Errorf("legal: %t, but %v", legal, err)
	}
}

// TestKeysAreIndependent has one bad key among good ones.
func TestKeysAreIndependent(t *testing.T) {
	var h History
	for i, key := range Keys(50) {
		v := base.Version(i + 1)
		read := got("a", v)
		if i == 31 {
			read = got("a", v+1)
		}
		for _, op := range []Op{at(1, 2, put("a", v)), at(3, 4, read)} {
			op.Keys = []base.Key{key}
			h = append(h, op)
		}
	}
	var fault *LinearError
	if err := CheckLinear(h, LinearConfig{}); !errors.As(err, &fault) || fault.Key != Keys(50)[31] || fault.Op.Kind != Get {
		t.Errorf("error %v, want one about %v", err, Keys(50)[31])
	}
}

func TestUndecidedIsAnError(t *testing.T) {
	h := History{at(1, 2, put("a", 5))}
	if err := CheckLinear(h, LinearConfig{Timeout: 1}); !errors.Is(err, ErrUndecided) {
		t.Errorf("error %v, want ErrUndecided", err)
	}
}
