package main

import "math"

// confidence of the intervals.
const confidence = 0.95

// ratio is how many times as large one quantity is as another.
type ratio struct {
	value     float64
	low, high float64 // the interval, if known
	known     bool
}

// ratioOf returns how many times as large b is as a: the ratio of the geometric
// means, with its confidence interval from Welch's unequal variances t-test on
// the logarithms (B. L. Welch, "The generalization of 'Student's' problem when
// several different population variances are involved", Biometrika 34, 1947).
// Logarithms because repeats differ by factors, not by summands; and a t-test
// and no bootstrap because repeats are few, and resampling a handful of values
// gives intervals that are too narrow. Both sides need two repeats for an
// interval. ok is false if there is nothing to compare.
func ratioOf(a, b []float64) (r ratio, ok bool) {
	meanA, varA, okA := logMoments(a)
	meanB, varB, okB := logMoments(b)
	if !okA || !okB {
		return r, false
	}
	diff := meanB - meanA
	r.value = math.Exp(diff)
	if len(a) < 2 || len(b) < 2 {
		return r, true
	}
	errA, errB := varA/float64(len(a)), varB/float64(len(b))
	r.known = true
	if errA+errB == 0 {
		r.low, r.high = r.value, r.value
		return r, true
	}
	freedom := welchFreedom(errA, len(a), errB, len(b))
	half := studentQuantile((1+confidence)/2, freedom) * math.Sqrt(errA+errB)
	r.low, r.high = math.Exp(diff-half), math.Exp(diff+half)
	return r, true
}

// welchFreedom is the Welch-Satterthwaite equation for the degrees of freedom,
// of two variances of means.
func welchFreedom(errA float64, nA int, errB float64, nB int) float64 {
	return (errA + errB) * (errA + errB) / (errA*errA/float64(nA-1) + errB*errB/float64(nB-1))
}

// logMoments returns mean and variance of the logarithms; false if there are
// none.
func logMoments(values []float64) (mean, variance float64, ok bool) {
	if len(values) == 0 {
		return 0, 0, false
	}
	for _, v := range values {
		if !(v > 0) || math.IsInf(v, 1) {
			return 0, 0, false
		}
		mean += math.Log(v)
	}
	mean /= float64(len(values))
	for _, v := range values {
		d := math.Log(v) - mean
		variance += d * d
	}
	if n := len(values); n > 1 {
		variance /= float64(n - 1)
	}
	return mean, variance, true
}

// studentQuantile returns t with a probability of p, at least 1/2, that a
// variable of Student's distribution is below it.
func studentQuantile(p, freedom float64) float64 {
	low, high := 0.0, 1.0
	for studentCDF(high, freedom) < p && high < 1e12 {
		high *= 2
	}
	for range 200 {
		mid := (low + high) / 2
		if studentCDF(mid, freedom) < p {
			low = mid
		} else {
			high = mid
		}
	}
	return (low + high) / 2
}

// studentCDF is the distribution function for t >= 0.
func studentCDF(t, freedom float64) float64 {
	return 1 - incompleteBeta(freedom/2, 0.5, freedom/(freedom+t*t))/2
}

// incompleteBeta is the regularized incomplete beta function by its continued
// fraction (NIST Digital Library of Mathematical Functions, 8.17.22), which
// converges fast below (a+1)/(a+b+2); above the symmetry 8.17.4 helps.
func incompleteBeta(a, b, x float64) float64 {
	if x <= 0 {
		return 0
	}
	if x >= 1 {
		return 1
	}
	if x > (a+1)/(a+b+2) {
		return 1 - incompleteBeta(b, a, 1-x)
	}
	lgA, _ := math.Lgamma(a)
	lgB, _ := math.Lgamma(b)
	lgAB, _ := math.Lgamma(a + b)
	front := math.Exp(lgAB-lgA-lgB+a*math.Log(x)+b*math.Log1p(-x)) / a
	return front * betaFraction(a, b, x)
}

// betaFraction evaluates the continued fraction by the method of Lentz.
func betaFraction(a, b, x float64) float64 {
	const tiny, enough, most = 1e-300, 1e-15, 10_000
	away := func(v float64) float64 { // from 0
		if math.Abs(v) < tiny {
			return tiny
		}
		return v
	}
	c, d := 1.0, 1/away(1-(a+b)*x/(a+1))
	f := d
	for m := 1.0; m < most; m++ {
		for _, term := range []float64{
			m * (b - m) * x / ((a + 2*m - 1) * (a + 2*m)),
			-(a + m) * (a + b + m) * x / ((a + 2*m) * (a + 2*m + 1)),
		} {
			d = 1 / away(1+term*d)
			c = away(1 + term/c)
			f *= c * d
		}
		if math.Abs(c*d-1) < enough {
			break
		}
	}
	return f
}

// geometricMean returns 0 if there is none.
func geometricMean(values []float64) float64 {
	mean, _, ok := logMoments(values)
	if !ok {
		return 0
	}
	return math.Exp(mean)
}
