// A shop of Express under OpenTelemetry for JavaScript. It asks itself a few times, tells every span that it
// ended as one line of JSON, sends all of them and ends. The standard OTEL_* variables say where and how.
'use strict';

const { detectResources, envDetector, hostDetector, processDetector } = require('@opentelemetry/resources');
const { BatchSpanProcessor, NodeTracerProvider } = require('@opentelemetry/sdk-trace-node');
const { registerInstrumentations } = require('@opentelemetry/instrumentation');
const { HttpInstrumentation } = require('@opentelemetry/instrumentation-http');
const { ExpressInstrumentation } = require('@opentelemetry/instrumentation-express');

const exporters = {
  grpc: '@opentelemetry/exporter-trace-otlp-grpc',
  'http/json': '@opentelemetry/exporter-trace-otlp-http',
  'http/protobuf': '@opentelemetry/exporter-trace-otlp-proto',
};
const { OTLPTraceExporter } = require(exporters[process.env.OTEL_EXPORTER_OTLP_PROTOCOL]);

const teller = {
  onStart() {},
  onEnd(span) {
    const { traceId, spanId } = span.spanContext();
    console.log(JSON.stringify({ trace_id: traceId, span_id: spanId, kind: span.kind, name: span.name }));
  },
  forceFlush: async () => {},
  shutdown: async () => {},
};

const provider = new NodeTracerProvider({
  resource: detectResources({ detectors: [envDetector, hostDetector, processDetector] }),
  spanProcessors: [new BatchSpanProcessor(new OTLPTraceExporter()), teller],
});
provider.register();
registerInstrumentations({ instrumentations: [new HttpInstrumentation(), new ExpressInstrumentation()] });

const http = require('node:http');
const express = require('express');

const app = express();
app.get('/orders/:id', (request, response) => response.json({ id: request.params.id }));
app.post('/orders', (_request, response) => response.status(201).end());
app.get('/broken', (_request, response) => response.status(500).end());

async function ask(port, method, path) {
  await new Promise((resolve, reject) => {
    const request = http.request({ host: '127.0.0.1', port, method, path }, (response) => {
      response.resume().on('end', resolve);
    });
    request.on('error', reject).end();
  });
}

const server = app.listen(0, '127.0.0.1', async () => {
  const { port } = server.address();
  for (let id = 1; id <= 20; id += 1) await ask(port, 'GET', `/orders/${id}?q=1`);
  await ask(port, 'POST', '/orders');
  await ask(port, 'GET', '/broken');
  await ask(port, 'GET', '/wp-login.php');
  server.close();
  server.closeAllConnections();
  await provider.shutdown();
});
