package founding

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/distributedcache/cache/internal/testkit"
)

func TestMain(m *testing.M) { testkit.VerifyNoLeaks(m) }

func name(i int) string    { return fmt.Sprintf("n%d", i) }
func address(i int) string { return fmt.Sprintf("host-%d:7000", i) }
func dir(i int) string     { return fmt.Sprintf("%032x", i+1) }

func terms(expect int) Terms {
	return Terms{Name: "test", Expect: expect, Shards: 30, Replication: 3}
}

func peer(i int) Peer { return Peer{Node: name(i), Directory: dir(i), Addr: address(i)} }

// world is a network of cores that a random schedule drives. It knows what each
// node ever promised.
type world struct {
	t     *testing.T
	r     *rand.Rand
	want  int // Expect
	nodes []*simNode
	cuts  map[[2]int]bool
	mail  []letter
	ever  map[[32]byte]map[ref]bool // who ever had which proposal on its disk
	all   map[[32]byte]*proposal

	crashes, withdrawn, losses int
}

type simNode struct {
	at    int
	peers []string
	saved []byte
	core  *core // nil while it is down
	boot  int
	end   outcome
}

// letter is a message on its way: a request of from, or the answer to it.
type letter struct {
	from, to, boot int // boot of from, which an answer must meet
	request        bool
	bytes          []byte
}

func newWorld(t *testing.T, r *rand.Rand, nodes, expect int, lists [][]int) *world {
	w := &world{t: t, r: r, want: expect, cuts: map[[2]int]bool{}, ever: map[[32]byte]map[ref]bool{}, all: map[[32]byte]*proposal{}}
	for i := range nodes {
		n := &simNode{at: i}
		for _, p := range lists[i] {
			n.peers = append(n.peers, address(p))
		}
		w.nodes = append(w.nodes, n)
	}
	return w
}

func (w *world) start(n *simNode) {
	var d durable
	if n.saved != nil {
		var err error
		if _, d, err = decodeDurable(n.saved); err != nil {
			w.t.Fatal(err)
		}
	}
	n.core = newCore(peer(n.at), terms(w.want), 1, 1, n.peers, d)
	n.boot++
	if n.end.join != nil && n.end.founded == nil && n.core.durable.held == nil {
		n.end = outcome{} // it has to find the cluster again
	}
}

func (w *world) crash(n *simNode) {
	if n.core != nil && n.core.member == nil {
		n.core = nil
		w.crashes++
	}
}

// save writes to the disk of a node and keeps the books.
func (w *world) save(n *simNode, d durable) {
	old := n.core.durable
	n.saved = encodeDurable(n.core.self.ref(), d)
	if d.held != nil {
		if w.ever[d.held.id] == nil {
			w.ever[d.held.id], w.all[d.held.id] = map[ref]bool{}, d.held
		}
		w.ever[d.held.id][n.core.self.ref()] = true
		if d.decided && !w.decided(d.held) {
			w.t.Fatalf("%s decided what not all have accepted", n.core.self.Node)
		}
	}
	if old.held != nil && !old.held.same(d.held) {
		w.withdrawn++
		if w.decided(old.held) {
			w.t.Fatalf("%s gave up what was decided", n.core.self.Node)
		}
	}
	w.verify()
}

func (w *world) decided(p *proposal) bool {
	for _, e := range p.electors() {
		if !w.ever[p.id][e.ref()] {
			return false
		}
	}
	return true
}

// verify wants at most one cluster.
func (w *world) verify() {
	var found *proposal
	for _, p := range w.all {
		if !w.decided(p) {
			continue
		}
		if found != nil {
			w.t.Fatalf("two clusters: %v and %v", found, p)
		}
		found = p
	}
}

// advance lets a node make its promises; it may crash before or after each one
// is on the disk.
func (w *world) advance(n *simNode, faults bool) {
	for range 100 {
		next, changed := n.core.step()
		if !changed {
			if n.end != (outcome{}) {
				return
			}
			end, err := n.core.outcome()
			if err != nil {
				w.t.Fatal(err)
			}
			n.end = end
			return
		}
		if faults && w.r.IntN(12) == 0 {
			w.crash(n)
			return
		}
		w.save(n, next)
		if faults && w.r.IntN(12) == 0 {
			w.crash(n)
			return
		}
		n.core.commit(next)
	}
	w.t.Fatal("a node goes on promising")
}

// join makes a node a member in earnest.
func (w *world) join(n *simNode) {
	if n.core == nil || n.core.member != nil {
		return
	}
	switch {
	case n.end.join != nil:
		n.core.member = n.end.join
	case n.end.founded != nil:
		n.core.member = n.end.founded.membership()
	}
}

func (w *world) send(from *simNode, addr string) {
	for _, to := range w.nodes {
		if address(to.at) == addr {
			w.mail = append(w.mail, letter{from.at, to.at, from.boot, true, encodeMessage(from.core.message(addr))})
			return
		}
	}
	w.t.Fatalf("no node at %s", addr)
}

// deliver hands over a letter.
func (w *world) deliver(l letter, faults bool) {
	if !l.request {
		from := w.nodes[l.from]
		if from.core == nil || from.boot != l.boot {
			return
		}
		m, err := decodeMessage(l.bytes)
		if err != nil {
			w.t.Fatal(err)
		}
		from.core.hear(address(l.to), m)
		w.advance(from, faults)
		return
	}
	to := w.nodes[l.to]
	if to.core == nil || w.cuts[[2]int{l.from, l.to}] {
		if from := w.nodes[l.from]; from.core != nil && from.boot == l.boot {
			from.core.miss(address(l.to), nil)
		}
		return
	}
	m, err := decodeMessage(l.bytes)
	if err != nil {
		w.t.Fatal(err)
	}
	w.mail = append(w.mail, letter{l.from, l.to, l.boot, false, encodeMessage(to.core.handle(m))})
	w.advance(to, faults)
}

// chaos is one random event.
func (w *world) chaos() {
	n := w.nodes[w.r.IntN(len(w.nodes))]
	switch w.r.IntN(20) {
	case 0:
		if n.core == nil {
			w.start(n)
		}
	case 1:
		if w.r.IntN(4) == 0 {
			w.crash(n)
		}
	case 2:
		pair := [2]int{n.at, w.r.IntN(len(w.nodes))}
		w.cuts[pair] = w.r.IntN(2) == 0
	case 3:
		if w.r.IntN(5) == 0 {
			w.join(n)
		}
	case 4, 5, 6, 7, 8, 9:
		if n.core == nil || n.core.member != nil {
			return
		}
		if targets := n.core.targets(); len(targets) > 0 {
			w.send(n, targets[w.r.IntN(len(targets))])
		}
		w.advance(n, true)
	default:
		if len(w.mail) == 0 {
			return
		}
		at := w.r.IntN(len(w.mail))
		l := w.mail[at]
		if w.r.IntN(10) != 0 { // else it comes once more, later
			w.mail = slices.Delete(w.mail, at, at+1)
		}
		if w.r.IntN(10) == 0 {
			w.losses++
			return
		}
		w.deliver(l, true)
	}
}

// settle ends all faults and returns how many rounds it took until every node
// has its outcome.
func (w *world) settle() int {
	w.cuts = map[[2]int]bool{}
	for _, n := range w.nodes {
		if n.core == nil {
			w.start(n)
		}
	}
	for round := range 60 {
		open := 0
		for _, n := range w.nodes {
			w.advance(n, false)
			if n.end == (outcome{}) {
				open++
				for _, addr := range n.core.targets() {
					w.send(n, addr)
				}
			} else if round > 3 {
				w.join(n)
			}
		}
		if open == 0 {
			return round
		}
		for len(w.mail) > 0 {
			l := w.mail[0]
			w.mail = w.mail[1:]
			w.deliver(l, false)
		}
	}
	for _, n := range w.nodes {
		w.t.Logf("%s: peers %v, end %v, floor %d, held %+v: %s", name(n.at), n.peers, n.end, n.core.durable.floor, n.core.durable.held, n.core.waiting())
	}
	w.t.Fatal("no outcome")
	return 0
}

// check wants one cluster with the expected founders, and everybody else to
// join it.
func (w *world) check() {
	founders, cluster := 0, ""
	for _, n := range w.nodes {
		id := ""
		switch {
		case n.end.founded != nil:
			founders++
			id = n.end.founded.cluster()
		case n.end.join != nil:
			id = n.end.join.Cluster
		}
		if cluster == "" {
			cluster = id
		}
		if id != cluster {
			w.t.Fatalf("%s is in cluster %s, others in %s", name(n.at), id, cluster)
		}
	}
	if founders != w.want {
		w.t.Fatalf("%d founders, want %d", founders, w.want)
	}
}

// randomLists returns peer lists that hang together: from any two nodes one
// comes to a common one.
func randomLists(r *rand.Rand, n int) [][]int {
	if r.IntN(3) == 0 { // all know all, or one seed
		same := []int{r.IntN(n)}
		if r.IntN(2) == 0 {
			same = nil
			for i := range n {
				same = append(same, i)
			}
		}
		return slices.Repeat([][]int{same}, n)
	}
	for {
		lists := make([][]int, n)
		for i := range lists {
			for range 1 + r.IntN(2) {
				lists[i] = append(lists[i], r.IntN(n))
			}
		}
		if hangTogether(lists) {
			return lists
		}
	}
}

func hangTogether(lists [][]int) bool {
	reach := make([][]bool, len(lists))
	for i := range lists {
		reach[i] = make([]bool, len(lists))
		var walk func(int)
		walk = func(j int) {
			if !reach[i][j] {
				reach[i][j] = true
				for _, next := range lists[j] {
					walk(next)
				}
			}
		}
		walk(i)
	}
	for i := range reach {
		for j := range reach {
			common := false
			for k := range reach {
				common = common || (reach[i][k] && reach[j][k])
			}
			if !common {
				return false
			}
		}
	}
	return true
}

// TestRandomSchedules runs thousands of first boots with every fault there is.
func TestRandomSchedules(t *testing.T) {
	r := testkit.Rand(t)
	runs := 4000
	if testing.Short() {
		runs = 400
	}
	var crashes, withdrawn, losses, slowest, early int
	for range runs {
		seed := r.Uint64()
		w := schedule(t, seed)
		if t.Failed() {
			return
		}
		for _, n := range w.nodes {
			if n.end.founded != nil {
				early++
				break
			}
		}
		rounds := w.settle()
		w.check()
		slowest = max(slowest, rounds)
		crashes, withdrawn, losses = crashes+w.crashes, withdrawn+w.withdrawn, losses+w.losses
	}
	t.Logf("%d schedules, %d crashes, %d promises given up, %d messages lost, %d founded during faults, at most %d rounds after", runs, crashes, withdrawn, losses, early, slowest)
	if crashes < runs || losses < runs || withdrawn < runs/50 || early < runs/20 {
		t.Fatal("too few faults, or too little happened between them")
	}
}

func schedule(t *testing.T, seed uint64) *world {
	r := testkit.NewRand(seed)
	nodes := 2 + r.IntN(5)
	expect := 1 + r.IntN(nodes)
	w := newWorld(t, r, nodes, expect, randomLists(r, nodes))
	for _, n := range w.nodes {
		if r.IntN(3) != 0 { // the others come late
			w.start(n)
		}
	}
	for range r.IntN(600) {
		w.chaos()
	}
	return w
}
