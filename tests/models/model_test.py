"""A model keeps its form as long as that is of its network and its codec."""

import dataclasses

from genre2_jax import tokenizers
from genre2_jax.models.model import Form, Model, form_of
from genre2_jax.policy import Pointwise
from genre2_jax.tokenizers.codec import Codec

CODEC = Codec(tokenizers.build('normalized', base=3, digits=2), -1.5, 1.5)
NETWORK = Pointwise(lambda key, inputs: {}, lambda *_: 0.0)
MODEL = Model(
  features=None,
  scaler=None,
  codec=CODEC,
  network=NETWORK,
  form=Form('key', lambda *_: (NETWORK, CODEC), {}),
)


def test_what_is_not_of_the_form_leaves_it():
  assert form_of(dataclasses.replace(MODEL, num_memory=3)).key == 'key'


def test_another_network_is_what_programs_are_made_of():
  other = NETWORK._replace(predict=lambda *_: 1.0)
  changed = dataclasses.replace(MODEL, network=other)
  assert form_of(changed).build() == (other, CODEC)
  assert form_of(changed).key is None


def test_another_codec_is_what_programs_are_made_of():
  other = dataclasses.replace(CODEC)
  changed = dataclasses.replace(MODEL, codec=other)
  assert form_of(changed).build()[1] is other


def test_another_form_comes_with_its_own_network():
  other = NETWORK._replace(predict=lambda *_: 1.0)
  form = Form('other', lambda *_: (other, CODEC), {})
  changed = dataclasses.replace(MODEL, network=other, form=form)
  assert form_of(changed).key == 'other'
