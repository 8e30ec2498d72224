"""Which form a request's body has, and which one its answer gets. Pure."""

from podium.http.forms.table import Form, answer_form, body_form
from podium.http.inference.own_forms import OwnForms, own_forms
from podium.http.inference.routes import RouteForm
from podium.http.transport.asgi import Fields
from podium.serving.dispatch.codec_group import CodecGroup

NAMED_FORMS = frozenset({RouteForm.PREDICT, RouteForm.RUN})
FORMS = {
    RouteForm.INFER: Form.INFER,
    RouteForm.BATCH: Form.BATCH,
    RouteForm.SINGLE: Form.SINGLE,
    RouteForm.GENERATE_STREAM: Form.GENERATE,
}


def forms_of(route: RouteForm, fields: Fields, own: OwnForms | None, codecs: CodecGroup | None) -> tuple[Form, Form]:
    """How the body of a route reads, and how its answer is written, where the model's own codecs do not.

    Raises UnsupportedMediaTypeError, NotAcceptableError.
    """
    if route not in NAMED_FORMS:
        return FORMS[route], FORMS[route]
    form = Form.NAMED
    if own is None or own.reads is None:
        form = body_form(fields.get(b"content-type"), codecs.decodes if codecs else ())
    if own is not None and own.writes is not None:
        return form, form
    return form, answer_form(fields.get(b"accept"), form, codecs.encodes if codecs else ())


def own_forms_of(route: RouteForm, fields: Fields, codecs: CodecGroup | None) -> OwnForms | None:
    """What of a request is for the model's own codecs."""
    if codecs is None or route not in (*NAMED_FORMS, RouteForm.STREAM):
        return None
    return own_forms(fields, codecs)
