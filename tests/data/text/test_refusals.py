import pytest

from editcaption_mega.data.text.refusals import begins_as_refusal, is_refusal

REFUSALS = """
I'm sorry, but I can't help with that.
I’m sorry, I can’t assist with this request.
I am really sorry, but as an AI I cannot see images.
Sorry, I can't do that.
Sorry!
I cannot assist with identifying people.
I can't provide an editing instruction for these pictures.
I can not process these images.
I won't describe this picture.
I'm unable to compare the images.
I am not able to view pictures.
I apologize, but the images are not available to me.
My apologies, I see one picture only.
Unfortunately, I cannot fulfil this request.
Unfortunately I'm unable to do so.
As an AI language model, I have no access to images.
As a large language model I can't see.
I don't see any images attached.
I must decline.
**I'm sorry**, but no.
"I'm sorry, I can't help .."
Your request was flagged by our content policy.
抱歉，我无法协助完成该请求。
很抱歉，我不能识别图片中的人物。
对不起，我无法查看图片。
非常抱歉
我无法提供编辑指令
無法協助您處理這張圖片
作为一个人工智能语言模型，我无法看到图片。
作为AI，我不能描述。
申し訳ありませんが、そのリクエストにはお応えできません。
죄송하지만 도와드릴 수 없습니다.
Es tut mir leid, dabei kann ich nicht helfen.
Ich kann Ihnen dabei leider nicht helfen.
Je suis désolé, je ne peux pas vous aider.
Lo siento, no puedo ayudar con eso.
Desculpe, não posso ajudar.
Mi dispiace, ma non posso aiutarti.
К сожалению, я не могу помочь.
Извините, я не могу это сделать.
عذراً، لا أستطيع المساعدة
क्षमा करें, मैं इसमें मदद नहीं कर सकता।
I cannot fulfill your request.
I can't.
Cannot comply.
Unable to process images.
Not able to help with that.
The request goes against my guidelines.
This request violates our policies.
Due to safety guidelines I can't help.
It is not possible for me to help.
It seems the image was not attached.
No images were provided. Please upload them.
I'm just an AI, so I can't see pictures.
I'm sorry, but I can't determine what is added in the second picture.
'I'm sorry, I can't help with that.'
I would rather not describe this person.
Je ne suis pas en mesure
Je ne suis pas en mesure de répondre à cette demande.
Malheureusement, je ne peux pas traiter ces images.
No puedo ayudarte con esa solicitud.
Lamentablemente no puedo procesar imágenes.
Infelizmente, não consigo ver as imagens.
Purtroppo non posso elaborare le immagini.
Leider kann ich das nicht tun.
Ik kan je daar helaas niet bij helpen.
Tyvärr kan jag inte
Jag kan tyvärr inte hjälpa till med det.
Beklager, men jeg kan ikke hjelpe med det.
Desværre kan jeg ikke behandle billederne.
Anteeksi, en voi auttaa tässä.
En valitettavasti pysty käsittelemään kuvia.
Omlouvám se, ale s tím nemohu pomoci.
Bohužel nemohu zpracovat tyto obrázky.
Sajnálom, ebben nem tudok segíteni.
Nem tudok segíteni ebben a kérésben.
Λυπάμαι, δεν μπορώ να βοηθήσω με αυτό.
Δεν μπορώ να επεξεργαστώ εικόνες.
Îmi pare rău, nu pot ajuta cu asta.
Nu pot procesa aceste imagini.
Nie mogę pomóc w tej sprawie.
Przykro mi, nie mogę tego zrobić.
Üzgünüm, bu konuda yardımcı olamam.
Xin lỗi, tôi không thể giúp việc này.
Maaf, saya tidak dapat membantu.
На жаль, я не можу допомогти.
すみません、画像の処理はできません。
わかりません
""".strip().splitlines()
SOUND = """
"Sorry, we're closed" is written on the door.
'Sorry, we do not serve cats' is painted on the window.
Sorry, we're closed sign is added to the door.
Apologies card is placed on the desk
Apologies, remove the second hat.
Request denied stamp added in red.
Request denied becomes Request approved on the stamp.
Content blocked overlay is removed
This content was flagged banner removed
This request form on the desk turns yellow.
I don't see any photo on the wall; add one.
I cannot see the picture on the wall, make it larger.
No image was provided on the left wall; add a picture.
As an AI robot, the man now has metal arms
As an assistant in a shop, the woman wears an apron.
I would rather not have the hat: remove it.
I am sorry text in the speech bubble becomes blue
I'm afraid of the dog: make it smaller
We are not allowed sign is added
We cannot enter sign hangs on the fence
I can't describe how dull the sky is: make it bright.
I cannot identify the man's tie; change it to red.
Sorry, I can't see a hat; give her one
I can't provide enough light for the room: light the lamp
I cannot tell which is the front: mirror the car
Unable to open, the door is replaced by a curtain.
Cannot be seen well: brighten the cat.
Unfortunately placed lamp post: remove it.
Privacy sign in the window turns green.
For safety, add a helmet to the boy.
Lamentable sky becomes sunny
Lamento: cambia el cielo
Desculpe sign gets a blue frame
Désolée text turns red
Entschuldigung-Schild an die Wand hängen
Ich kann das Gesicht nicht sehen, mache es heller.
Je ne peux pas voir son visage, éclaircis-le.
No puedo ver la cara, ilumínala.
Non posso vedere il viso: schiariscilo.
Jag kan inte se ansiktet, gör det ljusare.
En voi nähdä kasvoja, kirkasta niitä.
抱歉贴纸 added to the wall
把写着“对不起”的牌子涂成红色
无法识别的人物去掉
我不能看到天空，调亮一些
죄송 문구를 벽에 추가
Maaf, text is changed to red
Nie mogę zobaczyć twarzy, rozjaśnij ją.
Я не могу разглядеть лицо, сделай светлее.
""".strip().splitlines()


def test_what_assistants_decline_with_is_known_in_two_dozen_languages():
    assert [text for text in REFUSALS if not is_refusal(text) or not begins_as_refusal(text)] == []
    assert [text for text in REFUSALS if not is_refusal(f"  **{text}**")] == []


def test_instructions_that_begin_alike_are_no_refusals():
    assert [text for text in SOUND if is_refusal(text)] == []


@pytest.mark.parametrize("text", ["", " ", "'", '"', "I", "sorry " * 100_000, "I cannot " * 50_000, "'" * 100_000])
def test_any_text_is_looked_at(text):
    assert is_refusal(text) in (False, True)
