package main

import (
	"math"
	"math/rand/v2"
)

// The names of --dist.
const (
	distUniform = "uniform"
	distZipf    = "zipf"
	distHotSet  = "hotset"
)

// A chooser chooses one of n things, 0 to n-1. It keeps no state of its own, so
// that clients share it.
type chooser interface {
	choose(r *rand.Rand) int
}

// newChooser returns the chooser of a workload for n things.
func newChooser(w *workload, n int) chooser {
	switch w.Distribution {
	case distZipf:
		return scattered{newZipf(n, w.Theta), newScatter(n)}
	case distHotSet:
		hot := min(max(int(math.Round(w.HotKeys*float64(n))), 1), n)
		return scattered{hotSet{n: n, hot: hot, chance: w.HotOps}, newScatter(n)}
	default:
		return uniform(n)
	}
}

// uniform chooses each as often as any other.
type uniform int

func (u uniform) choose(r *rand.Rand) int { return r.IntN(int(u)) }

// hotSet chooses one of the first hot things with the given chance, else one of
// the others.
type hotSet struct {
	n, hot int
	chance float64
}

func (h hotSet) choose(r *rand.Rand) int {
	if h.hot == h.n || r.Float64() < h.chance {
		return r.IntN(h.hot)
	}
	return h.hot + r.IntN(h.n-h.hot)
}

// scattered puts what is chosen often anywhere, instead of side by side.
type scattered struct {
	ranks chooser
	to    scatter
}

func (s scattered) choose(r *rand.Rand) int { return s.to.place(s.ranks.choose(r)) }

// scatter is a permutation of 0..n-1: a multiplication modulo n.
type scatter struct{ n, factor uint64 }

func newScatter(n int) scatter {
	// The golden section spreads the first ranks evenly; any factor without a
	// common divisor is a permutation.
	factor := uint64(float64(n)*0.6180339887498949) | 1
	for gcd(factor, uint64(n)) != 1 {
		factor += 2
	}
	return scatter{uint64(n), factor}
}

// place needs n < 2^31 or so, which the flags see to.
func (s scatter) place(rank int) int { return int(uint64(rank) * s.factor % s.n) }

func gcd(a, b uint64) uint64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// zipf chooses rank k (from 0) with a probability proportional to
// (k+1)^-theta, exactly and in constant time and memory: rejection-inversion
// after Hörmann and Derflinger, "Rejection-inversion to generate variates from
// monotone discrete distributions", ACM TOMACS 6(3), 1996. math/rand's Zipf
// cannot do a theta of 1 or less, which is where caches live.
type zipf struct {
	n, theta       float64
	low, high, cut float64
}

func newZipf(n int, theta float64) zipf {
	z := zipf{n: float64(n), theta: theta}
	z.low = z.integral(1.5) - 1
	z.high = z.integral(z.n + 0.5)
	z.cut = 2 - z.inverse(z.integral(2.5)-z.density(2))
	return z
}

func (z zipf) choose(r *rand.Rand) int {
	for {
		u := z.high + r.Float64()*(z.low-z.high)
		x := z.inverse(u)
		k := min(max(math.Floor(x+0.5), 1), z.n)
		if k-x <= z.cut || u >= z.integral(k+0.5)-z.density(k) {
			return int(k) - 1
		}
	}
}

// density is x^-theta, integral its integral from 1 to x, and inverse the
// inverse of integral.
func (z zipf) density(x float64) float64 { return math.Exp(-z.theta * math.Log(x)) }

func (z zipf) integral(x float64) float64 {
	log := math.Log(x)
	return expm1Over((1-z.theta)*log) * log
}

func (z zipf) inverse(x float64) float64 {
	t := max(x*(1-z.theta), -1) // below only by rounding
	return math.Exp(log1pOver(t) * x)
}

// expm1Over is (e^x-1)/x and log1pOver is log(1+x)/x, also near 0, where theta
// is near 1.
func expm1Over(x float64) float64 {
	if math.Abs(x) > 1e-8 {
		return math.Expm1(x) / x
	}
	return 1 + x/2*(1+x/3)
}

func log1pOver(x float64) float64 {
	if math.Abs(x) > 1e-8 {
		return math.Log1p(x) / x
	}
	return 1 - x/2*(1-x*2/3)
}
