package main

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// instruments count requests. The registry is this server's own and also holds
// the instruments of the cache; nothing is registered globally.
type instruments struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
}

func newInstruments() *instruments {
	in := &instruments{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "cache_http_requests_total",
			Help: "Requests answered, by route, method and status.",
		}, []string{"route", "method", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "cache_http_request_duration_seconds",
			Help:    "Time from the end of the request header to the end of the answer.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2.5, 12), // 100 us to 2.4 s
		}, []string{"route"}),
	}
	in.registry.MustRegister(in.requests, in.duration,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return in
}

// handler serves GET /metrics and nothing else.
func (in *instruments) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(in.registry, promhttp.HandlerOpts{}))
	return mux
}

// observe counts one answered request. route is the pattern, never the path,
// so keys cannot multiply the time series.
func (in *instruments) observe(route, method string, code int, took time.Duration) {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPut, http.MethodPost, http.MethodDelete:
	default:
		method = "other"
	}
	in.requests.WithLabelValues(route, method, strconv.Itoa(code)).Inc()
	in.duration.WithLabelValues(route).Observe(took.Seconds())
}

// statusWriter remembers the status of an answer.
type statusWriter struct {
	http.ResponseWriter
	status int
}

// WriteHeader remembers the first final status.
func (w *statusWriter) WriteHeader(status int) {
	if w.status == 0 && status >= 200 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implies status 200.
func (w *statusWriter) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
