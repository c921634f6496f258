package harness

import (
	"testing"
)

func TestSessionRules(t *testing.T) {
	final := func(op Op) Op {
		op.Client = FinalClient
		return op
	}
	for name, c := range map[string]struct {
		rule string // "" = none is broken
		ops  History
	}{
		"plain":               {"", History{at(1, 2, put("a", 5)), at(3, 4, got("a", 5)), at(5, 6, put("b", 6)), at(7, 8, final(got("b", 6)))}},
		"read goes back":      {RuleMonotonic, History{at(1, 2, put("a", 5)), at(3, 4, put("b", 6)), at(5, 6, got("a", 5))}},
		"concurrent":          {"", History{at(1, 2, put("a", 5)), at(3, 9, put("b", 6)), at(5, 6, got("a", 5))}},
		"version repeats":     {RuleMonotonic, History{at(1, 2, put("a", 5)), at(3, 4, put("b", 5))}},
		"refusal goes back":   {RuleMonotonic, History{at(1, 2, put("a", 5)), at(3, 4, put("b", 6)), at(5, 6, put("c", 0).when(0).but(5))}},
		"never written":       {RuleOrigin, History{at(1, 2, got("a", 5))}},
		"refused value":       {RuleOrigin, History{at(1, 2, put("a", 0).failed()), at(3, 4, got("a", 5))}},
		"unknown value":       {"", History{at(1, 0, put("a", 0)), at(3, 4, got("a", 5))}},
		"read before":         {RuleOrigin, History{at(1, 2, got("a", 5)), at(3, 0, put("a", 0))}},
		"two versions":        {RuleOnce, History{at(1, 0, put("a", 0)), at(3, 4, got("a", 5)), at(5, 6, got("a", 6))}},
		"put twice":           {RuleOnce, History{at(1, 2, put("a", 6)), at(1, 2, got("a", 5))}},
		"lost":                {RuleKept, History{at(1, 2, put("a", 5)), at(3, 4, final(got("", 0)))}},
		"deleted":             {"", History{at(1, 2, put("a", 5)), at(3, 4, removed(5)), at(5, 6, final(got("", 0)))}},
		"deleted before":      {RuleKept, History{at(1, 2, removed(0)), at(3, 4, put("a", 5)), at(5, 6, final(got("", 0)))}},
		"deleted something":   {RuleKept, History{at(1, 2, put("a", 5)), at(3, 4, removed(0)), at(5, 6, final(got("", 0)))}},
		"maybe deleted":       {"", History{at(1, 0, removed(0)), at(3, 4, put("a", 5)), at(5, 6, final(got("", 0)))}},
		"maybe put later":     {"", History{at(1, 0, put("b", 0)), at(3, 4, put("a", 5)), at(5, 6, final(got("b", 6)))}},
		"replaced by the old": {RuleKept, History{at(1, 9, put("b", 4)), at(3, 8, put("a", 5)), at(8, 9, final(got("b", 4)))}},
	} {
		t.Run(name, func(t *testing.T) {
			err := CheckSessions(c.ops)
			broken := rulesOf(err)
			if c.rule == "" && err != nil || c.rule != "" && !broken[c.rule] {
				t.Errorf("want %q broken, got %v", c.rule, err)
			}
		})
	}
}
