{{- define "palaver.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 53 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 53 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "palaver.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "palaver.labels" -}}
{{ include "palaver.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "palaver.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (ternary (include "palaver.fullname" .) "default" .Values.serviceAccount.create) -}}
{{- end -}}

{{/* The Secret with the callers' file, or nothing. */}}
{{- define "palaver.callersSecret" -}}
{{- if .Values.callers.config -}}
{{- printf "%s-callers" (include "palaver.fullname" .) -}}
{{- else -}}
{{- .Values.callers.existingSecret -}}
{{- end -}}
{{- end -}}

{{/* The Secret with the secret variables, or nothing. */}}
{{- define "palaver.envSecret" -}}
{{- if .Values.secretEnv.values -}}
{{- printf "%s-env" (include "palaver.fullname" .) -}}
{{- else -}}
{{- .Values.secretEnv.existingSecret -}}
{{- end -}}
{{- end -}}

{{/* Whether the chart creates the volume of the database. */}}
{{- define "palaver.createsClaim" -}}
{{- if and (eq .Values.storage.kind "sqlite") (not .Values.storage.sqlite.existingClaim) }}true{{ end -}}
{{- end -}}

{{/*
Seconds until Kubernetes kills a pod: the pause before SIGTERM, the grace period of the turns, the time for commits, and the
8 seconds that the server gives itself to close its connections (CLOSING_TIMEOUT), with 5 to spare.
*/}}
{{- define "palaver.terminationGracePeriodSeconds" -}}
{{- $grace := ceil (default 30 .Values.settings.PALAVER_GRACE_PERIOD | toString | float64) -}}
{{- $commit := ceil (default 15 .Values.settings.PALAVER_COMMIT_TIMEOUT | toString | float64) -}}
{{- add .Values.preStopSeconds $grace $commit 8 5 -}}
{{- end -}}

{{/*
How a probe asks the server. Kubernetes speaks gRPC without TLS; with TLS, `palaver ping` asks in the container, under a name
of the certificate, and without a client certificate it can only connect.
*/}}
{{- define "palaver.probe" -}}
{{- $values := .root.Values -}}
{{- if not $values.tls.existingSecret -}}
grpc:
  port: {{ $values.service.port }}
  service: {{ .service | quote }}
{{- else if $values.tls.clientCertificates -}}
tcpSocket:
  port: grpc
{{- else if .service -}}
exec:
  command: [palaver, --server, "{{ $values.tls.serverName }}:{{ $values.service.port }}", --ca, /etc/palaver/tls/ca.crt, ping]
{{- else -}}
tcpSocket:
  port: grpc
{{- end -}}
{{- end -}}

{{/* Combinations of values that would install a server that can't work. The schema checks each value alone. */}}
{{- define "palaver.check" -}}
{{- if eq .Values.storage.kind "sqlite" -}}
{{- if or (gt (int .Values.replicaCount) 1) .Values.autoscaling.enabled -}}
{{- fail "\n\nSeveral replicas can't share a SQLite database. Set storage.kind=tables, or replicaCount=1 without autoscaling.\n" -}}
{{- end -}}
{{- end -}}
{{- if and (eq .Values.storage.kind "tables") (not .Values.storage.tables.serviceUri) (not .Values.secretEnv.existingSecret) -}}
{{- if not (regexMatch "(^| )AzureWebJobsStorage" (keys .Values.settings .Values.secretEnv.values | join " ")) -}}
{{- fail "\n\nWhere are the tables? Set storage.tables.serviceUri, or AzureWebJobsStorage to a connection string in secretEnv.\n" -}}
{{- end -}}
{{- end -}}
{{- if and (not .Values.callers.config) (not .Values.callers.existingSecret) (not .Values.callers.allowUnauthenticated) -}}
{{- fail "\n\nWho may call? Set callers.config or callers.existingSecret, or callers.allowUnauthenticated=true if a mesh, a gateway or the NetworkPolicy keeps everyone else away.\n" -}}
{{- end -}}
{{- if and (or .Values.callers.config .Values.callers.existingSecret) (not .Values.tls.existingSecret) (not .Values.tls.allowUnencrypted) -}}
{{- fail "\n\nCallers send their keys: set tls.existingSecret, or tls.allowUnencrypted=true if a mesh encrypts.\n" -}}
{{- end -}}
{{- if and .Values.callers.config .Values.callers.existingSecret -}}
{{- fail "\n\nSet callers.config or callers.existingSecret, not both.\n" -}}
{{- end -}}
{{- if and .Values.secretEnv.values .Values.secretEnv.existingSecret -}}
{{- fail "\n\nSet secretEnv.values or secretEnv.existingSecret, not both.\n" -}}
{{- end -}}
{{- if and .Values.tls.existingSecret (not .Values.tls.clientCertificates) (not .Values.tls.serverName) -}}
{{- fail "\n\nSet tls.serverName to a name in the certificate: the probes call the server by it.\n" -}}
{{- end -}}
{{- end -}}
