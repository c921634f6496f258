package harness

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// A history of transactions that append to lists and read them shows in which
// order they took effect: a list names all that appended to it, in their order. So
// most of what must have come before what can be inferred, and a cycle in that is a
// proof that no order explains the history. This is the method of Kingsbury and
// Alvaro, "Elle: Inferring Isolation Anomalies from Experimental Observations",
// PVLDB 14(3), 2020, for strict serializability.

// ListOp is one step of a transaction on lists: it appends an element that nobody
// else ever appends, or reads.
type ListOp struct {
	Key    string
	Append int   // 0 = it is a read
	Read   []int // what that found
}

// ListTxn is a transaction on lists. The times count from the start of the
// recording; what a transaction has read counts only if its Outcome is OK.
type ListTxn struct {
	Client       int
	Ops          []ListOp
	Call, Return time.Duration
	Outcome      Outcome
}

// String describes the transaction in one line.
func (t *ListTxn) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "client %d, %s, %v to %v:", t.Client, t.Outcome, t.Call, t.Return)
	for _, op := range t.Ops {
		if op.Append != 0 {
			fmt.Fprintf(&b, " %s+%d", op.Key, op.Append)
		} else {
			fmt.Fprintf(&b, " %s=%v", op.Key, op.Read)
		}
	}
	return b.String()
}

// ListError is what no order of the transactions explains.
type ListError struct {
	What string
	Txns []*ListTxn // that show it; a cycle in its order
}

// Error names the transactions.
func (e *ListError) Error() string {
	var b strings.Builder
	b.WriteString(e.What)
	for _, t := range e.Txns {
		fmt.Fprintf(&b, "\n\t%v", t)
	}
	return b.String()
}

// appended is an element of a list.
type appended struct {
	txn  int
	last bool // of those that the transaction appends to the list
}

// listGraph has what must have come before what.
type listGraph struct {
	txns     []ListTxn
	elements map[string]map[int]appended
	order    map[string][]int // the elements of each list, as far as anybody has seen them
	// edges are between transactions, and moments: those have the numbers from
	// len(txns) on.
	edges [][]listEdge
}

type listEdge struct {
	to  int
	why string
}

// CheckLists returns why a history is not strictly serializable; nil if nothing
// speaks against it. Reads at the end, of every list, make it see what was lost.
func CheckLists(txns []ListTxn) error {
	g := &listGraph{txns: txns, elements: map[string]map[int]appended{}, order: map[string][]int{}}
	for _, step := range []func() error{g.findElements, g.findOrder, g.checkReads, g.checkKept} {
		if err := step(); err != nil {
			return err
		}
	}
	g.connect()
	return g.findCycle()
}

func (g *listGraph) findElements() error {
	for i := range g.txns {
		lasts := map[string]int{}
		for _, op := range g.txns[i].Ops {
			if op.Append == 0 {
				continue
			}
			list := g.elements[op.Key]
			if list == nil {
				list = map[int]appended{}
				g.elements[op.Key] = list
			}
			if other, twice := list[op.Append]; twice {
				return g.fault("the same element is appended by two: the history is of no use", other.txn, i)
			}
			list[op.Append] = appended{txn: i}
			lasts[op.Key] = op.Append
		}
		for key, element := range lasts {
			g.elements[key][element] = appended{txn: i, last: true}
		}
	}
	return nil
}

func (g *listGraph) fault(what string, txns ...int) error {
	e := &ListError{What: what}
	for _, i := range txns {
		e.Txns = append(e.Txns, &g.txns[i])
	}
	return e
}

// eachRead calls fn with every read that counts, without what the transaction
// itself had appended to the list before.
func (g *listGraph) eachRead(fn func(txn int, key string, found []int) error) error {
	for i := range g.txns {
		if g.txns[i].Outcome != OK {
			continue
		}
		own := map[string][]int{}
		for _, op := range g.txns[i].Ops {
			if op.Append != 0 {
				own[op.Key] = append(own[op.Key], op.Append)
				continue
			}
			mine := own[op.Key]
			at := len(op.Read) - len(mine)
			if at < 0 || !slices.Equal(op.Read[at:], mine) {
				return g.fault("a transaction does not see what it has appended", i)
			}
			if err := fn(i, op.Key, op.Read[:at]); err != nil {
				return err
			}
		}
	}
	return nil
}

// findOrder takes the longest read of a list for its order. All others must be
// beginnings of it.
func (g *listGraph) findOrder() error {
	by := map[string]int{}
	_ = g.eachRead(func(i int, key string, found []int) error {
		if len(found) > len(g.order[key]) {
			g.order[key], by[key] = found, i
		}
		return nil
	})
	return g.eachRead(func(i int, key string, found []int) error {
		if !slices.Equal(found, g.order[key][:len(found)]) {
			return g.fault("two have seen a list grow in different ways", i, by[key])
		}
		return nil
	})
}

// checkReads: what was read was appended, once, by a transaction that was not
// refused, and all of it.
func (g *listGraph) checkReads() error {
	for key, list := range g.order {
		seen := map[int]bool{}
		for _, element := range list {
			by, found := g.elements[key][element]
			switch {
			case !found:
				return &ListError{What: fmt.Sprintf("element %d of %s is from nobody", element, key)}
			case seen[element]:
				return g.fault(fmt.Sprintf("element %d of %s is there twice", element, key), by.txn)
			case g.txns[by.txn].Outcome == Failed:
				return g.fault(fmt.Sprintf("element %d of %s is from a transaction that was not applied", element, key), by.txn)
			}
			seen[element] = true
		}
	}
	return g.eachRead(func(i int, key string, found []int) error {
		if len(found) == 0 {
			return nil
		}
		if by := g.elements[key][found[len(found)-1]]; !by.last {
			return g.fault(fmt.Sprintf("half of what was appended to %s was read", key), by.txn, i)
		}
		return nil
	})
}

// checkKept: whoever reads after an append was acknowledged finds it. What nobody
// reads again is not missed.
func (g *listGraph) checkKept() error {
	return g.eachRead(func(i int, key string, found []int) error {
		if g.txns[i].Client != FinalClient {
			return nil
		}
		for element, by := range g.elements[key] {
			if g.txns[by.txn].Outcome == OK && !slices.Contains(found, element) {
				return g.fault(fmt.Sprintf("element %d of %s is lost", element, key), by.txn)
			}
		}
		return nil
	})
}

// connect finds what must have come before what.
func (g *listGraph) connect() {
	g.edges = make([][]listEdge, len(g.txns))
	edge := func(from, to int, why string) {
		if from != to {
			g.edges[from] = append(g.edges[from], listEdge{to, why})
		}
	}
	for _, key := range slices.Sorted(maps.Keys(g.order)) {
		list := g.order[key]
		for i := range max(len(list)-1, 0) {
			edge(g.elements[key][list[i]].txn, g.elements[key][list[i+1]].txn, "appended to "+key+" before")
		}
	}
	_ = g.eachRead(func(i int, key string, found []int) error {
		if n := len(found); n > 0 {
			edge(g.elements[key][found[n-1]].txn, i, "was read, in "+key+", by")
		}
		if n := len(found); n < len(g.order[key]) {
			edge(i, g.elements[key][g.order[key][n]].txn, "did not see, in "+key+", what was appended by")
		}
		return nil
	})
	g.connectTimes()
}

// connectTimes lets those that had returned come before those that were called then.
// A chain of moments, one for each return, stands for all these pairs.
func (g *listGraph) connectTimes() {
	var ended []int
	for i := range g.txns {
		if g.txns[i].Outcome == OK && g.txns[i].Return != Forever {
			ended = append(ended, i)
		}
	}
	slices.SortFunc(ended, func(a, b int) int { return cmp.Compare(g.txns[a].Return, g.txns[b].Return) })
	moment := func(n int) int { return len(g.txns) + n }
	for n, i := range ended {
		g.edges = append(g.edges, nil)
		g.edges[i] = append(g.edges[i], listEdge{moment(n), "had returned when"})
		if n > 0 {
			g.edges[moment(n-1)] = append(g.edges[moment(n-1)], listEdge{moment(n), ""})
		}
	}
	for i := range g.txns {
		n, _ := slices.BinarySearchFunc(ended, g.txns[i].Call, func(j int, call time.Duration) int {
			return cmp.Compare(g.txns[j].Return, call)
		})
		if n > 0 {
			g.edges[moment(n-1)] = append(g.edges[moment(n-1)], listEdge{i, ""})
		}
	}
}

// findCycle returns a shortest cycle through the first transaction that is in one.
func (g *listGraph) findCycle() error {
	in := g.components()
	for i := range g.txns {
		if in.size[in.of[i]] < 2 {
			continue
		}
		return g.describe(g.cycle(i, in.of))
	}
	return nil
}

// cycle returns the shortest way from a node back to itself, inside its component.
func (g *listGraph) cycle(start int, component []int) []int {
	from := map[int]int{}
	for queue := []int{start}; len(queue) > 0; queue = queue[1:] {
		for _, e := range g.edges[queue[0]] {
			if component[e.to] != component[start] {
				continue
			}
			if _, seen := from[e.to]; seen {
				continue
			}
			from[e.to] = queue[0]
			if e.to == start {
				way := []int{start}
				for at := from[start]; at != start; at = from[at] {
					way = append(way, at)
				}
				slices.Reverse(way[1:])
				return way
			}
			queue = append(queue, e.to)
		}
	}
	return []int{start}
}

func (g *listGraph) describe(way []int) error {
	e := &ListError{}
	var why []string
	for n, i := range way {
		if i < len(g.txns) {
			e.Txns = append(e.Txns, &g.txns[i])
		}
		next := way[(n+1)%len(way)]
		at := slices.IndexFunc(g.edges[i], func(e listEdge) bool { return e.to == next })
		if reason := g.edges[i][at].why; reason != "" {
			why = append(why, reason)
		}
	}
	e.What = fmt.Sprintf("no order explains these, each of which comes before the next, and the last before the first, for it (%s)", strings.Join(why, "; "))
	return e
}

// components are the strongly connected parts of a graph.
type components struct{ of, size []int }

// components finds them as Tarjan does, without recursion: chains of moments are
// long.
func (g *listGraph) components() components {
	n := len(g.edges)
	c := components{of: make([]int, n)}
	index, low, next := make([]int, n), make([]int, n), make([]int, n)
	onStack := make([]bool, n)
	var stack, path []int
	count := 0
	enter := func(v int) {
		count++
		index[v], low[v], onStack[v] = count, count, true
		stack, path = append(stack, v), append(path, v)
	}
	for root := range n {
		if index[root] != 0 {
			continue
		}
		for enter(root); len(path) > 0; {
			v := path[len(path)-1]
			if next[v] < len(g.edges[v]) {
				w := g.edges[v][next[v]].to
				next[v]++
				if index[w] == 0 {
					enter(w)
				} else if onStack[w] {
					low[v] = min(low[v], index[w])
				}
				continue
			}
			if path = path[:len(path)-1]; len(path) > 0 {
				low[path[len(path)-1]] = min(low[path[len(path)-1]], low[v])
			}
			if low[v] == index[v] {
				at := slices.Index(stack, v)
				for _, w := range stack[at:] {
					c.of[w], onStack[w] = len(c.size), false
				}
				c.size = append(c.size, len(stack)-at)
				stack = stack[:at]
			}
		}
	}
	return c
}
