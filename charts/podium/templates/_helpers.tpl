{{- define "podium.name" -}}
{{ .Values.nameOverride | default .Chart.Name }}
{{- end -}}

{{- /* Names of all objects; short enough for a suffix. */ -}}
{{- define "podium.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{ .Values.fullnameOverride }}
{{- else if contains (include "podium.name" .) .Release.Name -}}
{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-%s" .Release.Name (include "podium.name" .) | trunc 40 | trimSuffix "-" }}
{{- end -}}
{{- end -}}

{{- define "podium.selector" -}}
app.kubernetes.io/name: {{ include "podium.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "podium.labels" -}}
{{ include "podium.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "podium.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{ .Values.serviceAccount.name | default (include "podium.fullname" .) }}
{{- else -}}
{{ required "serviceAccount.create is false: name an existing account in serviceAccount.name" .Values.serviceAccount.name }}
{{- end -}}
{{- end -}}

{{- /* An image by digest where one is given, else by tag. Called with (dict "image" … "root" $). */ -}}
{{- define "podium.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ .image.tag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end -}}
